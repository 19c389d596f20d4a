"""Jobs say exactly the command that was asked for, to a shell and to Kubernetes, and begin again when they should."""

import ast
import os
import pathlib
import re
import shlex
import subprocess
import sys

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from research.commands import overrides
from research.config import load_experiment
from research.launch import SYSTEMS, Kubernetes, SkyPilot, Slurm, Work
from research.launch.kubernetes import literal
from research.launch.slurm import seconds
from research.launch.work import check_words, label
from research.types import UserError

ROOT = pathlib.Path(__file__).resolve().parents[2]
ODD = ("experiments/my file.py", "--name=it's \"so\"; $(touch no) `no` $HOME", "--data.unknown=<unk> & é", "--x=$$(A)$")
GPUS = Kubernetes(image="image", claim="claim", nodes=3)
TPUS = Kubernetes(image="image", claim="claim", tpu="v5p", topology="2x2x4")
KEPT = SkyPilot(volume="runs", nodes=2)


def work(*words, out=""):
    return Work("a_run", words, out, ("launch", "--slurm", *words), 75)


def train(*words):
    return ["-m", "research", "train", *words]


@pytest.fixture
def programs(tmp_path, monkeypatch):
    """Stand-ins for `srun`, `scontrol` and `python` that write down their arguments; srun ends as SRUN_ENDS says."""
    folder = tmp_path / "bin"
    folder.mkdir()
    note = "import os, sys; print(repr(sys.argv[1:]), file=open({0!r} + '/' + os.path.basename(sys.argv[0]), 'a'))\n"
    end = "if os.environ['SRUN_KILLS']: os.kill(os.getppid(), 15)\nsys.exit(int(os.environ['SRUN_ENDS']))\n"
    for name in ("srun", "scontrol", "python"):
        text = f"#!{sys.executable}\n" + note.format(str(tmp_path)) + (end if name == "srun" else "")
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.chdir(tmp_path)
    return lambda name: ast.literal_eval((tmp_path / name).read_text()) if (tmp_path / name).exists() else None


def parses(script):
    checked = subprocess.run(["bash", "-n"], input=script, text=True, capture_output=True, check=False)
    return (checked.returncode, checked.stderr) == (0, "")


def bash(script, **environment):
    assert parses(script)
    return subprocess.run(["bash"], input=script, text=True, env=os.environ | environment, check=False).returncode


@pytest.mark.parametrize(
    ("ends", "told", "again"),
    [(0, "", False), (1, "", False), (75, "", True), (75, "yes", False)],
    ids=["done", "failed", "out of time", "cancelled or preempted"],
)
def test_an_sbatch_script_runs_its_command_and_begins_again_where_time_was_over(programs, ends, told, again):
    script = Slurm(setup="export SETUP=done", python="python").render(work(*ODD, out="runs/a b"))
    status = bash(script, SRUN_ENDS=str(ends), SRUN_KILLS=told, SLURM_JOB_ID="7")
    assert status == ends
    assert programs("srun") == ["--kill-on-bad-exit=0", "python", *train(*ODD, "--out=runs/a b")]
    assert programs("scontrol") == (["requeue", "7"] if again else None)


def test_what_slurm_is_asked_for():
    asked = Slurm(4, 2, time="1-00:00:00", partition="gpu", grace=60, options=("exclusive", "constraint=[a|b]"))
    asked.check()
    script = asked.render(work("experiments/a.py"))
    said = [words for line in script.splitlines() if line.startswith("#SBATCH ") for words in [line.split()[1:]]]
    assert all(len(words) == 1 for words in said)
    options = [words[0] for words in said]
    assert {"--nodes=4", "--ntasks-per-node=2", "--gpus-per-node=2", "--time=1-00:00:00"} <= {*options}
    assert {"--signal=TERM@60", "--requeue", "--exclusive", "--constraint=[a|b]", "--partition=gpu"} <= {*options}
    assert not any(option.endswith("=") for option in options) and asked.devices == 8
    assert "gpus-per-node" not in Slurm(gpus=0).render(work("a.py")) and Slurm(gpus=0, nodes=3).devices == 3
    [step] = [line for line in Slurm(cpus=12).render(work("a.py")).splitlines() if line.startswith("srun ")]
    assert shlex.split(step)[:3] == ["srun", "--kill-on-bad-exit=0", "--cpus-per-task=12"]


def test_times_are_read_as_sbatch_reads_them():
    times = {"90": 5400, "1:30": 90, "2:00:00": 7200, "1-0": 86400, "1-2:30": 95400, "0-0:0:7": 7, "0": 0}
    assert {time: seconds(time) for time in times} == times
    for cluster in (Slurm(time="7"), Slurm(time="0"), Slurm(time="2", grace=59)):
        cluster.check()


def as_kubernetes_reads(word, variables):
    """Expand $(NAME) as Kubernetes documents it: $$ is $, and an unknown name stays as it is."""
    return re.sub(
        r"\$(?:\$|\((.*?)\))",
        lambda found: "$" if found[1] is None else variables.get(found[1], found[0]),
        word,
    )


@settings(deadline=None)
@given(st.lists(st.text(st.sampled_from("$(){}'\"\\ #:-&*!%@`|>~aé\u2028=,[]?"), max_size=12), max_size=4))
def test_any_word_survives_a_manifest(words):
    command = yaml.safe_load(GPUS.render(work(*words)))["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]
    [container] = command["spec"]["containers"]
    read = [as_kubernetes_reads(word, {"PROCESS_INDEX": "2"}) for word in container["command"]]
    address = "a-run-workers-0-0.a-run:8476"
    assert read[: 4 + len(words)] == ["python", *train(*words)]
    assert read[4 + len(words) :] == [
        "--out=/mnt/tercet/runs/a_run",
        f"--processes.address={address}",
        "--processes.count=3",
        "--processes.index=2",
    ]
    assert all(as_kubernetes_reads(literal(word), {"a": "b", "": "c"}) == word for word in words)


# The fields of jobset.x-k8s.io/v1alpha2 (kubernetes-sigs/jobset, api/jobset/v1alpha2/jobset_types.go) and of the parts
# of batch/v1 and core/v1 that are used: those that must be there, and those that may.
SCHEMA = {
    "JobSet": ("apiVersion kind metadata spec", ""),
    "Metadata": ("name", "namespace labels annotations"),
    "Spec": ("replicatedJobs", "network successPolicy failurePolicy startupPolicy suspend coordinator managedBy"),
    "FailurePolicy": ("", "maxRestarts restartStrategy rules"),
    "Rule": ("name action", "onJobFailureReasons onJobFailureMessagePatterns targetReplicatedJobs"),
    "ReplicatedJob": ("name template", "groupName replicas dependsOn"),
    "Job": ("template", "parallelism completions completionMode backoffLimit podFailurePolicy"),
    "Pod": ("containers", "restartPolicy nodeSelector terminationGracePeriodSeconds volumes"),
    "Container": ("name", "image command env resources volumeMounts"),
}


def conforms(kind, value):
    needed, allowed = ({*names.split()} for names in SCHEMA[kind])
    assert needed <= value.keys() <= needed | allowed, kind
    return value


@pytest.mark.parametrize(("cluster", "pods"), [(GPUS, 3), (TPUS, 4), (Kubernetes(image="i", claim="c"), 1)])
def test_a_jobset_has_the_fields_of_its_schema(cluster, pods):
    cluster.check()
    value = conforms("JobSet", yaml.safe_load(cluster.render(work("experiments/a.py"))))
    assert (value["apiVersion"], value["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    assert re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", conforms("Metadata", value["metadata"])["name"])
    spec = conforms("Spec", value["spec"])
    failures = conforms("FailurePolicy", spec["failurePolicy"])
    [rule] = [conforms("Rule", rule) for rule in failures["rules"]]
    assert rule["action"] == "RestartJobSetAndIgnoreMaxRestarts" and failures["restartStrategy"] == "BlockingRecreate"
    [replicated] = [conforms("ReplicatedJob", job) for job in spec["replicatedJobs"]]
    job = conforms("Job", replicated["template"]["spec"])
    assert job["parallelism"] == job["completions"] == pods == cluster.pods and job["backoffLimit"] == 0
    [interrupted] = job["podFailurePolicy"]["rules"]
    assert interrupted["action"] == "FailJob" and interrupted["onExitCodes"]["values"] == [75]
    pod = conforms("Pod", job["template"]["spec"])
    assert pod["restartPolicy"] == "Never"  # which podFailurePolicy asks for
    [container] = [conforms("Container", container) for container in pod["containers"]]
    assert interrupted["onExitCodes"]["containerName"] == container["name"]
    assert [mount["name"] for mount in container["volumeMounts"]] == [volume["name"] for volume in pod["volumes"]]
    mounted = [mount["mountPath"] for mount in container["volumeMounts"]]
    assert mounted == ["/mnt/tercet", *(["/dev/shm"] if cluster is not TPUS else [])]  # NCCL's
    told = [word for word in container["command"] if word.startswith("--processes.")]
    assert len(told) == (3 if cluster is GPUS else 0)  # the hosts of a TPU slice, and one pod alone, need no address


def test_what_a_tpu_slice_is_called_by_gke():
    value = yaml.safe_load(TPUS.render(work("experiments/a.py")))
    pod = value["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]
    asked = {"cloud.google.com/gke-tpu-accelerator": "tpu-v5p-slice", "cloud.google.com/gke-tpu-topology": "2x2x4"}
    assert pod["nodeSelector"] == asked and pod["containers"][0]["resources"] == {"limits": {"google.com/tpu": 4}}
    assert TPUS.devices == 16


@pytest.mark.parametrize("nodes", [1, 2])
def test_a_task_of_skypilot_runs_its_command_on_each_machine(programs, nodes):
    cluster = SkyPilot(nodes=nodes, volume="runs", python="python", accelerators="A100:4", spot=True)
    cluster.check()
    task = yaml.safe_load(cluster.render(work(*ODD)))
    assert task["num_nodes"] == nodes and cluster.devices == 4 * nodes
    assert task["resources"]["job_recovery"]["recover_on_exit_codes"] == [75] and task["resources"]["use_spot"] is True
    given = {"SKYPILOT_NODE_IPS": "10.0.0.1\n10.0.0.2", "SKYPILOT_NUM_NODES": "2", "SKYPILOT_NODE_RANK": "1"}
    assert bash(task["run"], **given) == 0 and parses(task["setup"])
    others = ["--processes.address=10.0.0.1:8476", "--processes.count=2", "--processes.index=1"]
    assert programs("python") == train(*ODD, "--out=/mnt/tercet/runs/a_run", *(others if nodes > 1 else []))


def test_a_bucket_is_mounted_where_the_run_is_kept():
    task = yaml.safe_load(SkyPilot(bucket="s3://b").render(work("experiments/a.py")))
    assert task["file_mounts"] == {"/mnt/tercet": {"source": "s3://b", "mode": "MOUNT_CACHED"}}
    assert "volumes" not in task and "/mnt/tercet/runs/a_run" in task["run"]


@pytest.mark.parametrize(
    ("cluster", "message"),
    [
        (Slurm(nodes=0), "--nodes is 0"),
        (Slurm(time="a day"), "--time is 'a day'"),
        (Slurm(time="6"), "--time 6 leaves nothing to train in"),
        (Slurm(partition="a\n#SBATCH --x"), "--partition"),
        (Slurm(options=("wrap=rm -rf",)), "--options 'wrap=rm -rf'"),
        (Slurm(options=("--exclusive",)), "without dashes"),
        (Slurm(python=""), "--python is empty"),
        (Kubernetes(claim="c"), "--image is empty"),
        (Kubernetes(image="i"), "--claim is empty"),
        (Kubernetes(image="i", claim="c", mount="runs"), "--mount is 'runs'"),
        (Kubernetes(image="i", claim="c", topology="4x4"), "--topology is of TPUs"),
        (Kubernetes(image="i", claim="c", tpu="v5p", topology="4x4"), "no slice of v5p"),
        (Kubernetes(image="i", claim="c", tpu="v5e"), "no slice of v5e"),
        (Kubernetes(image="i", claim="c", tpu="v5e", topology="3x3"), "no slice of v5e"),
        (SkyPilot(), "--bucket or --volume"),
        (SkyPilot(bucket="s3://b", volume="v"), "--bucket or --volume"),
        (SkyPilot(bucket="s3://b", nodes=2), "give --volume"),
        (SkyPilot(bucket="b"), "--bucket is 'b'"),
        (SkyPilot(volume="v", accelerators="H100:0"), "--accelerators"),
        (SkyPilot(volume="v", accelerators="tpu-v6e-8"), "is a TPU: only --kubernetes --tpu"),
    ],
)
def test_what_no_cluster_can_give_is_one_line(cluster, message):
    with pytest.raises(UserError, match=re.escape(message)) as caught:
        cluster.check()
    assert "\n" not in str(caught.value)


def test_words_that_would_end_a_line_are_refused():
    check_words(ODD)
    with pytest.raises(UserError, match="cannot be printed"):
        check_words(["--name=a\nb"])


@pytest.mark.parametrize(("name", "wanted"), [("GPT2_124m", "gpt2-124m"), ("1B model!", "run-1b-model"), ("é", "run")])
def test_names_of_things(name, wanted):
    assert label(name) == wanted
    assert len(label("a" * 99)) == 40


def test_no_flag_of_a_system_is_a_field_of_a_run():
    run = overrides.fields(load_experiment(str(ROOT / "experiments" / "mlm_pydocs.py")))
    for system in SYSTEMS.values():
        assert not {path.partition(".")[0] for path in run} & {*overrides.fields(system())}


def test_the_header_is_the_command_that_made_it():
    for cluster in (Slurm(), GPUS, KEPT):
        lines = cluster.render(work(*ODD)).splitlines()
        [made_by] = [line for line in lines if line.startswith("# python -m research ")]
        assert shlex.split(made_by)[1:] == ["python", "-m", "research", "launch", "--slurm", *ODD]

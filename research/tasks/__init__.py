"""From records to rows and back: one file a task, listed here, each with the same functions over plain values.

`named_columns` finds the columns of an objective in a record, and `renamed` those of other data; `example` reads of a
record what scoring and generation need; `has_labels`, `untold`, `empty`, `texts`, `names` and `ordered` say what is in
them; `encode` gathers their tokens, and `arrays` lays those into rows. Importing them does not import jax.
"""

from types import ModuleType

from research.objectives.classification import Classification
from research.objectives.completion import Completion
from research.objectives.seq2seq import Seq2Seq
from research.objectives.tagging import Tagging
from research.tasks import classification, completion, seq2seq, tagging

TASKS: dict[type, ModuleType] = {
    Classification: classification,
    Tagging: tagging,
    Seq2Seq: seq2seq,
    Completion: completion,
}

"""A patient as a sequence of tokens, in the order in which a clinician came to know them.

`Tokeniser.fit` learns a preset's quantiles, vocabulary and durations from training subjects;
`Tokeniser.write` turns a store into a folder of memory-mapped arrays, which `Timelines` reads.
Presets (`ethos`, `clmbr`, `ehrmamba`, `motor`, or a file of one's own) are data; see `Preset`.
"""

from wardround.views.timeline.fitting import Durations
from wardround.views.timeline.preset import Preset, load_preset, preset_names
from wardround.views.timeline.reading import Derived
from wardround.views.timeline.timelines import ALWAYS, NEVER, NO_EVENT, Context, Timelines
from wardround.views.timeline.tokeniser import Tokeniser
from wardround.views.timeline.vocabulary import Vocabulary

__all__ = [
    "ALWAYS",
    "NEVER",
    "NO_EVENT",
    "Context",
    "Derived",
    "Durations",
    "Preset",
    "Timelines",
    "Tokeniser",
    "Vocabulary",
    "load_preset",
    "preset_names",
]

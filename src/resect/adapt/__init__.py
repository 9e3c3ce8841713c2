"""Changes that people make to a trained model, each exact, each a few lines over the edits.

Each adaptation is an edit, for use in a plan with `plan.then(...)`, and a function of the same
name that makes a plan of that one edit and applies it.

    configure    settings of layers: dropout rates, regularizers, dtype policies, trainable, …
    strip        layers that only training needs, taken out; training_only registers a class

Every function says in its docstring what is preserved and what is not.
"""

from resect.adapt.configure import Configure, configure
from resect.adapt.strip import Strip, strip, training_only
from resect.edits import EDITS

EDITS.update({cls.verb: cls for cls in (Configure, Strip)})

__all__ = ["Configure", "Strip", "configure", "strip", "training_only"]

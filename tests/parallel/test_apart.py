"""Equal things that are two stay two, jobs do not see each other, and no answer ends the others."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import keras
import numpy as np
import pytest
from keras import layers

import resect
from resect.errors import CopyError, WorkerError
from resect.parallel import Shipped, run
from resect.parallel.dumping import loaded_layer, own_modules_changed
from tests.common import assert_equal, functional_mlp, train, trained, weights_of
from tests.kinds.registry import KINDS
from zoo.randomise import outputs_of, randomise

pytest.importorskip("cloudpickle")


def there(function, jobs):
    """What becomes of jobs as elsewhere, with all that is pickled on the way."""
    with ThreadPoolExecutor(1) as executor:
        return sorted(run(function, jobs, executor=executor), key=lambda o: str(o.job))


def test_two_equal_models_are_two():
    teacher = trained(functional_mlp())
    pupil = resect.clone(teacher)

    def work(job):
        one, other, again = job
        same = one is other, other is teacher, one is again
        train(other)
        return same, weights_of(one)

    (found,) = there(work, [(teacher, pupil, teacher)])
    assert found.result()[0] == (False, False, True)
    assert_equal(found.result()[1], weights_of(teacher))


def test_two_equal_arrays_are_two():
    many = np.zeros(2**18)

    def work(job):
        one, other, again = job
        other += 1
        return one is again, float(one.max()), float(many.max()), [one, one.copy()]

    (found,) = there(work, [(many, many.copy(), many)])
    assert found.result()[:3] == (True, 0.0, 0.0)
    one, other = found.result()[3]
    one += 1
    assert not other.any()


def test_arrays_whose_dtype_numpy_does_not_write():
    named = [np.zeros(2**18, [(name, "i4")]) for name in "ab"]
    narrow = np.asarray(keras.ops.convert_to_numpy(keras.ops.ones(2**20, "bfloat16")))
    (found,) = there(lambda job: job, [(*named, narrow)])
    assert [each.dtype for each in found.result()] == [*(n.dtype for n in named), narrow.dtype]


def test_models_that_come_back_are_the_users_own():
    model = functional_mlp()
    one, other = (outcome.result() for outcome in there(lambda _: resect.clone(model), [1, 2]))
    assert one is not other


def changed_rate(model):
    model.get_layer("drop").rate = 0.9


def changed_activation(model):
    model.get_layer("dense").activation = keras.activations.relu


def changed_regularizer(model):
    model.get_layer("dense").kernel_regularizer = keras.regularizers.L2(1.0)


def changed_state(model):
    model(np.ones((2, 3, 4), "float32"))


def changed_vocabulary(model):
    model.get_layer("words").set_vocabulary(["other"])


def flat():
    stack = layers.Dense(3, name="dense"), layers.Dropout(0.5, seed=1, name="drop")
    return keras.Sequential([keras.Input((4,)), *stack])


def stateful():
    steps = keras.Input(batch_shape=(2, 3, 4))
    return keras.Model(steps, layers.SimpleRNN(3, stateful=True, name="rnn")(steps))


def lookup():
    words = layers.StringLookup(name="words", vocabulary=["a"])
    return keras.Sequential([keras.Input((1,), dtype="string"), words])


@pytest.mark.parametrize(
    ("build", "change"),
    [
        (flat, changed_rate),
        (flat, changed_activation),
        (flat, changed_regularizer),
        (stateful, changed_state),
        (lookup, changed_vocabulary),
    ],
)
def test_what_a_job_changes_in_a_model_no_other_job_sees(build, change):
    if build is lookup:
        pytest.importorskip("tensorflow")
    shipped = Shipped(build())
    model = shipped.model()
    assert shipped.model() is model
    change(model)
    assert shipped.model() is not model


class Stubborn:
    """Can be pickled, and not be made again."""

    def __reduce__(self):
        return int, ("no number",)


def test_what_cannot_be_made_again_here_is_the_outcome_of_its_job_alone():
    found = there(lambda job: Stubborn() if job == 1 else job, [0, 1, 2])
    assert [outcome.value for outcome in found] == [0, None, 2]
    assert isinstance(found[1].error, WorkerError)
    assert "cannot be made again here: ValueError" in str(found[1].error)


# Shipped


class Times(layers.Layer):
    factor = None

    def call(self, x):
        factor = self.factor
        if isinstance(factor, dict):
            factor = factor["by"]
        return x if factor is None else factor(x) if callable(factor) else x * factor


@pytest.mark.parametrize(
    "factor",
    [{"by": 3.0}, np.float32(3), lambda x: 3 * x, keras.initializers.Ones()],
    ids=["dict", "number", "function", "object"],
)
def test_what_no_configuration_says_is_refused(factor):
    model = keras.Sequential([keras.Input((4,)), Times(name="times")])
    Shipped(model)
    model.get_layer("times").factor = factor
    with pytest.raises(CopyError, match=r"'times' \(Times\) has another 'factor' when it is made"):
        Shipped(model)


def test_a_method_that_was_put_on_a_layer_is_refused():
    model = flat()
    model.get_layer("dense").call = lambda x: x
    with pytest.raises(CopyError, match=r"'dense' \(Dense\) has another 'call'"):
        Shipped(model)


def test_an_activation_without_a_name():
    model = randomise(flat())
    model.get_layer("dense").activation = lambda x: 5 * x
    found = loaded_layer(Shipped(model).data)
    x = np.ones((1, 4), "float32")
    np.testing.assert_array_equal(outputs_of(model, x), outputs_of(found, x))


def test_variables_keep_their_order():
    model = randomise(KINDS["quantized_float8"].build())
    found = loaded_layer(Shipped(model).data)
    assert [v.path for v in found.trainable_variables] == [
        v.path for v in model.trainable_variables
    ]


def test_a_module_that_was_written_since():
    assert own_modules_changed(0)
    assert not own_modules_changed(4e9)

import numpy as np
import pytest
from tests.writers.stand_ins import Recorder

from vis_callbacks.report import Scalar
from vis_callbacks.writers.scalars import log_numbers, number_of


@pytest.mark.parametrize(
    "value", [1, 1.0, True, np.float32(1), np.array(1), np.array([1.0]), np.array([[1]])]
)
def test_one_value_of_any_type_is_a_float(value):
    number = number_of(Scalar(tag="a", value=value))
    assert number == 1.0
    assert type(number) is float


@pytest.mark.parametrize("value", [np.ones(2), np.ones(0)])
def test_more_or_less_than_one_value_is_refused(value):
    with pytest.raises(ValueError, match=r'scalar "a" holds . values'):
        number_of(Scalar(tag="a", value=value))


def test_the_logger_gets_a_dictionary_of_its_own():
    logger, numbers = Recorder(), {"a": 1.0}
    log_numbers(logger, numbers, 3)
    numbers["b"] = 2.0
    assert logger.metrics == [({"a": 1.0}, 3)]

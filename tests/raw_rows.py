"""What becomes of a raw record, for tests of layouts."""

import pytest

from operators.normalise import normalise
from operators.rejections import Rejection

ASKED, ANSWERED = {"role": "user", "content": "I"}, {"role": "assistant", "content": "Y"}
BOTH = [ASKED, ANSWERED]


def fields(record, columns=None):
    """Instruction, input and output."""
    example = normalise(record, columns)
    return example.instruction, example.input, example.output


def rejected(record, columns=None):
    """Reason and detail."""
    with pytest.raises(Rejection) as caught:
        normalise(record, columns)
    return caught.value.reason, caught.value.detail

"""Results of all kinds of fits are those of the golden file.

`golden/compare.py` compares weights bit for bit between commits, and writes the file anew where a
change is meant.
"""

import json
from pathlib import Path

import pytest
from golden import configurations
from numpy.testing import assert_allclose

EXPECTED = json.loads((Path(__file__).parent / "golden" / "expected.json").read_text())


def test_every_configuration_has_its_values():
    assert [*EXPECTED] == [*configurations.CONFIGURATIONS]


@pytest.mark.parametrize("name", configurations.CONFIGURATIONS)
def test_values_are_the_golden_ones(name):
    _, values = configurations.run(name)
    assert [*values] == [*EXPECTED[name]]
    # Initial weights are drawn in float32, and other processors round the draws otherwise: 1e-7.
    for key, expected in EXPECTED[name].items():
        assert_allclose(values[key], expected, rtol=0, atol=1e-6, err_msg=key)

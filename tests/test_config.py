"""Configuration keys that have moved."""

import pytest

from rc2l_d2.engine import load_config
from rc2l_d2.errors import InputError


@pytest.mark.parametrize("name, value", [("EMA_DECAY", "0.9"), ("MIX", "none"), ("BURN_IN_ITERS", "3")])
def test_an_old_key_is_refused_with_its_new_name(name, value, tmp_path):
    old, new = f"MODEL.RC2L.{name}", f"MODEL.SEMI_SUPERVISED.{name}"
    file = tmp_path / "old.yaml"
    file.write_text(f"MODEL:\n  RC2L:\n    {name}: {value}\n")
    for arguments in (("configs/toy/rc2l_R18.yaml", [old, value]), (str(file), [])):
        with pytest.raises(InputError, match=f"{old}.*{new}") as caught:
            load_config(*arguments)
        assert "\n" not in str(caught.value)
    assert load_config("configs/toy/rc2l_R18.yaml", [new, value]).MODEL.SEMI_SUPERVISED[name] is not None

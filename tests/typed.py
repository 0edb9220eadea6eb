"""The type checker of the tests that run with `--jaxtyping-packages=bifusion,typed.check`."""

from beartype import BeartypeConf, beartype

check = beartype(conf=BeartypeConf(is_pep484_tower=True))
"""As pyright reads annotations: an int is a float."""

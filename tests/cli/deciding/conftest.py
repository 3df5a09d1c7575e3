"""Two policies of the finished run, and tenants that may use them."""

from dataclasses import replace

import pytest

from demur.core.policy import Sensitivity
from demur.store.policies.policy_file import read_policy, write_policy
from demur.store.run import RunFolder

TENANTS = """
[tenants.acme]
policies = ["default", "careful"]
may_override = true

[tenants.small]
policies = ["careful"]
"""


@pytest.fixture
def place(made_run, tmp_path):
    """A folder of two policies, and tenants beside it."""
    default = read_policy(RunFolder(made_run).policy)
    careful = replace(
        default.with_thresholds({"humanizing": 0.5}),
        name="careful",
        categories=tuple(
            replace(
                c,
                locked=name == "safety",
                limits=(0.1, 0.9) if name == "humanizing" else None,
                threshold=0.5,
            )
            for name, c in zip(default.taxonomy.names, default.categories, strict=True)
        ),
        sensitivities=(
            Sensitivity(name="strict", thresholds=(("humanizing", 0.2), ("incomplete", 0.3))),
        ),
    )
    write_policy(tmp_path / "policies" / "default.json", default)
    write_policy(tmp_path / "policies" / "careful.json", careful)
    (tmp_path / "tenants.toml").write_text(TENANTS, encoding="utf-8")
    return tmp_path

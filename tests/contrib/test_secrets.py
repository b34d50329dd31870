"""What packages for hosts write down holds no key. No host needs to be installed for that."""

from __future__ import annotations

from wspool.contrib.minisweagent import Model


def test_a_key_for_litellm_is_in_no_trajectory_and_no_template() -> None:
    """It is not used here, but stands in the configurations of those who come from litellm."""
    model = Model(
        model_name="m", model_kwargs={"api_key": "sk-secret", "temperature": 0}, api_key="sk-secret"
    )
    for said in (model.serialize(), model.get_template_vars(), model.config.model_dump(mode="json")):
        assert "sk-secret" not in repr(said)
        assert "'temperature': 0" in repr(said)

"""`wspool rollout --ray`: what has to be right before actors are begun."""

from wspool.cli.rollout_options import Given
from wspool.cli.rollout_plan import Plan
from wspool.cli.usage import usage_error

__all__ = ["leave", "reach"]


def reach(given: Given, plan: Plan) -> int:
    """Connect to the cluster, and return how many actors there shall be. A mistake ends the command."""
    cluster = given.cluster
    if not cluster.ray:
        usage_error("--actors and --address are of a Ray cluster; say --ray as well")
    if plan.target is None:
        usage_error("actors reach no server in this process; start `wspool serve`, and say --url")
    for option, wanted in (
        ("--checkpoint-turns", given.state.checkpoint_turns),
        ("--timeline", given.telling.timeline is not None),
    ):
        if wanted:
            usage_error(f"{option} is of one process; leave it out, or --ray")
    # Imported here, and below: who has one machine needs no Ray.
    from wspool.ray.cluster import connect

    try:
        nodes = connect(cluster.address)
    except (ImportError, ConnectionError) as problem:
        usage_error(str(problem))
    actors = cluster.actors or nodes
    for option, most in (("-c", given.place.concurrency), ("--max-connections", plan.policy.max_size)):
        if most < actors:
            usage_error(f"{option} {most} is less than one for each of {actors} actors")
    return actors


def leave() -> None:
    """Leave the cluster."""
    from wspool.ray.cluster import disconnect

    disconnect()

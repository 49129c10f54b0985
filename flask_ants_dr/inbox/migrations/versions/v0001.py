"""The tables as they were before they had a version. Nobody makes them any more."""

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Nothing: what is stamped with this version has them."""

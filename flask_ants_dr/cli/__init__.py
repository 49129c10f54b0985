"""``flask ants-dr``: a file of commands for each thing that they are about."""

from . import check as check
from . import emulate as emulate
from . import inbox as inbox
from . import ledger as ledger
from . import reconcile as reconcile
from . import simulate as simulate
from .group import cli as cli

"""The durable inbox (extra ``inbox``): a callback is committed before it is answered."""

try:
    import sqlalchemy as _sqlalchemy  # noqa: F401
except ModuleNotFoundError:
    raise ImportError(
        "flask_ants_dr.inbox needs SQLAlchemy: pip install 'Flask-ANTS-DR[inbox]'"
    ) from None

from ..errors import MessageLogsError as MessageLogsError
from .background import Reconciling as Reconciling
from .figures import CallbackCount as CallbackCount
from .figures import Figures as Figures
from .figures import MessageCount as MessageCount
from .history import Failure as Failure
from .history import Report as Report
from .inbox import BoundInbox as BoundInbox
from .inbox import Inbox as Inbox
from .inbox import Redelivered as Redelivered
from .inbox import Replayed as Replayed
from .inbox import bound_inboxes as bound_inboxes
from .ledger import Entry as Entry
from .ledger import Ledger as Ledger
from .messages import DeadMessage as DeadMessage
from .quarantine import Quarantined as Quarantined
from .reconcile import Reconciled as Reconciled
from .retention import Erased as Erased
from .retention import Retained as Retained
from .tables import State as State
from .tables import metadata as metadata
from .tables import mysql_metadata as mysql_metadata
from .troubles import Trouble as Trouble
from .workers import Worker as Worker

"""A Flask blueprint that receives SMS delivery reports from ANTS."""

from .blueprint import DeliveryReportBlueprint as DeliveryReportBlueprint
from .errors import CallbackError as CallbackError
from .models import DeliveryReport as DeliveryReport
from .models import DeliveryState as DeliveryState
from .models import InvalidDetail as InvalidDetail
from .models import MessageReport as MessageReport
from .models import Status as Status
from .schemas import MessageSchema as MessageSchema
from .schemas import ReportSchema as ReportSchema
from .schemas import StatusSchema as StatusSchema
from .signals import Discard as Discard
from .signals import RetryLater as RetryLater
from .signals import callback_rejected as callback_rejected
from .signals import message_dead as message_dead
from .signals import message_delivered as message_delivered
from .signals import message_failed as message_failed
from .signals import message_invalid as message_invalid
from .signals import message_reported as message_reported
from .signals import report_received as report_received

"""p2mfast: an Arm stage-2 page-table engine with Xen's P2M semantics."""

from p2mfast import image
from p2mfast._engine import P2M, Entry
from p2mfast.descriptor import Descriptor, decode
from p2mfast.embed import (
    get_cmake_dir,
    get_include,
    get_library_dir,
    get_pkgconfig_dir,
    get_sources,
)
from p2mfast.errors import (
    ImageError,
    MappingMismatch,
    OutOfRange,
    OutOfTables,
    P2MError,
    Stage2Fault,
)
from p2mfast.hypervisor.aborts import AbortResult, MmioAccess, Outcome
from p2mfast.hypervisor.cache import CacheGeometry
from p2mfast.hypervisor.domain import Domain
from p2mfast.hypervisor.events import DomainEvent
from p2mfast.hypervisor.host import Host
from p2mfast.hypervisor.mem_access import Violation
from p2mfast.hypervisor.policy import Policy
from p2mfast.hypervisor.vcpu import VCpu
from p2mfast.types import (
    INVALID_MFN,
    Access,
    Attributes,
    EventKind,
    FaultKind,
    Flush,
    P2MType,
    Stats,
    Translation,
)

__version__ = "0.1.0"

__all__ = [
    "INVALID_MFN",
    "P2M",
    "AbortResult",
    "Access",
    "Attributes",
    "CacheGeometry",
    "Descriptor",
    "Domain",
    "DomainEvent",
    "Entry",
    "EventKind",
    "FaultKind",
    "Flush",
    "Host",
    "ImageError",
    "MappingMismatch",
    "MmioAccess",
    "OutOfRange",
    "OutOfTables",
    "Outcome",
    "P2MError",
    "P2MType",
    "Policy",
    "Stage2Fault",
    "Stats",
    "Translation",
    "VCpu",
    "Violation",
    "decode",
    "get_cmake_dir",
    "get_include",
    "get_library_dir",
    "get_pkgconfig_dir",
    "get_sources",
    "image",
]

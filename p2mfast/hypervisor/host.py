"""The machine: its frames, its VMIDs, its domains."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import get_args

from p2mfast._engine import P2M
from p2mfast.errors import OutOfVmids
from p2mfast.hypervisor.cache import CacheGeometry
from p2mfast.hypervisor.domain import Arch, Domain
from p2mfast.hypervisor.frames import FrameTable
from p2mfast.hypervisor.memory import Bank, check_bank, xen_layout
from p2mfast.hypervisor.policy import Policy
from p2mfast.units import PAGE_SIZE, format_size, parse_size

# The machine's RAM starts at 2 GiB, far below the engine's default place for tables.
_RAM_BASE_MFN = 0x8_0000


class Host:
    """A machine that runs domains.

    Parameters
    ----------
    memory : str or int
        Its RAM: "16GiB", or bytes.
    vmid_bits : 8 or 16
        VMID 0 is the hypervisor's.
    cache : CacheGeometry
        The data cache that a guest cleans by Set/Way.

    Attributes
    ----------
    domains : dict of int to Domain
        By id; dom0, if there is one, is 0.
    frames : FrameTable
        Who owns and who holds each machine frame.

    Raises ValueError or TypeError naming the argument.
    """

    def __init__(
        self,
        memory: str | int = "16GiB",
        vmid_bits: int = 8,
        cache: CacheGeometry | None = None,
    ) -> None:
        if vmid_bits not in (8, 16):
            raise ValueError(f"vmid_bits must be 8 or 16, not {vmid_bits!r}")
        if cache is not None and not isinstance(cache, CacheGeometry):
            raise TypeError(f"cache must be a CacheGeometry, not {cache!r}")
        self.memory = parse_size(memory, "memory")
        self.vmid_bits = vmid_bits
        self.cache = CacheGeometry() if cache is None else cache
        self.frames = FrameTable(_RAM_BASE_MFN, self.memory // PAGE_SIZE)
        self._next_id = 1
        self._vmids: set[int] = set()
        self.domains: dict[int, Domain] = {}

    def __repr__(self) -> str:
        return (
            f"<Host: {format_size(self.memory)}, {self.free_frames} frames free,"
            f" {len(self.domains)} domains>"
        )

    @property
    def free_frames(self) -> int:
        """Machine frames that nobody owns or holds."""
        return self.frames.free

    @property
    def held_references(self) -> int:
        """References that domains hold on frames of others (foreign and granted pages)."""
        return self.frames.held

    @property
    def free_vmids(self) -> int:
        """How many more domains can be created."""
        return (1 << self.vmid_bits) - 1 - len(self._vmids)

    def create_domain(
        self,
        memory: str | int = "1GiB",
        vcpus: int = 1,
        bits: int = 64,
        policy: Policy | None = None,
        *,
        arch: Arch = "arm",
        layout: Sequence[Bank] | None = None,
        page_order: int = 18,
        ipa_bits: int = 40,
        paging_mempool: int | None = None,
    ) -> Domain:
        """A paused domain with its RAM mapped.

        Parameters
        ----------
        memory
            Its RAM: "1GiB", or bytes.
        vcpus, bits
            How many vCPUs, and whether the guest is of 32 or 64 bits.
        policy
            How its accesses are tracked; the default :class:`Policy` if None.
        arch
            Whose hook runs when the creation finishes; that of "x86" does nothing.
        layout
            Banks of guest RAM as (first GFN, pages) whose pages add up to ``memory``; where Xen
            puts it (from 1 GiB up) if None.
        page_order
            Largest mapping of guest RAM: 0 (4 KiB), 9 (2 MiB) or 18 (1 GiB).
        ipa_bits
            As :class:`P2M`'s.
        paging_mempool
            Pages for its tables; None: as many as fit.

        Raises OutOfFrames, OutOfTables, OutOfVmids, ValueError, TypeError; nothing is created then.
        """
        pages = parse_size(memory, "memory") // PAGE_SIZE
        banks = xen_layout(pages) if layout is None else list(layout)
        for bank in banks:
            check_bank(bank, "layout")
        if sum(nr for _, nr in banks) != pages:
            raise ValueError(f"layout {banks!r} must add up to memory, {pages} pages")
        domain = self._new_domain(
            self._next_id,
            P2M(ipa_bits, vmid=self._free_vmid(), max_tables=paging_mempool),
            vcpus=vcpus,
            bits=bits,
            policy=policy,
            arch=arch,
            page_order=page_order,
        )
        self._finish(domain, lambda: domain.populate_layout(banks))
        self._next_id += 1
        return domain

    def create_dom0(
        self,
        memory: str | int = "512MiB",
        vcpus: int = 1,
        policy: Policy | None = None,
        *,
        ipa_bits: int = 40,
    ) -> Domain:
        """The domain with id 0: its RAM lies at the machine's own addresses (Xen's
        allocate_memory_11). Raises as :meth:`create_domain`, and ValueError if there is one."""
        if 0 in self.domains:
            raise ValueError("domain 0 has been created already")
        pages = parse_size(memory, "memory") // PAGE_SIZE
        p2m = P2M(ipa_bits, vmid=self._free_vmid())
        domain = self._new_domain(
            0, p2m, vcpus=vcpus, bits=64, policy=policy, arch="arm", page_order=18
        )
        self._finish(domain, lambda: domain.populate_direct(pages))
        return domain

    def _new_domain(
        self,
        domain_id: int,
        p2m: P2M,
        *,
        vcpus: int,
        bits: int,
        policy: Policy | None,
        arch: Arch,
        page_order: int,
    ) -> Domain:
        if isinstance(vcpus, bool) or not isinstance(vcpus, int):
            raise TypeError(f"vcpus must be an integer, not {vcpus!r}")
        if vcpus < 1:
            raise ValueError(f"vcpus must be at least 1, not {vcpus!r}")
        if bits not in (32, 64):
            raise ValueError(f"bits must be 32 or 64, not {bits!r}")
        if arch not in get_args(Arch):
            raise ValueError(f"arch must be one of {', '.join(get_args(Arch))}, not {arch!r}")
        if page_order not in (0, 9, 18):
            raise ValueError(f"page_order must be 0, 9 or 18, not {page_order!r}")
        if policy is not None and not isinstance(policy, Policy):
            raise TypeError(f"policy must be a Policy (see Policy.parse), not {policy!r}")
        return Domain(
            self,
            domain_id,
            p2m,
            vcpus=vcpus,
            bits=bits,
            policy=Policy() if policy is None else policy,
            arch=arch,
            page_order=page_order,
        )

    def _finish(self, domain: Domain, populate: Callable[[], None]) -> None:
        try:
            populate()
        except Exception:
            self.frames.release(domain.extents)
            raise
        self._vmids.add(domain.p2m.vmid)
        self.domains[domain.id] = domain

    def _free_vmid(self) -> int:
        for vmid in range(1, 1 << self.vmid_bits):
            if vmid not in self._vmids:
                return vmid
        raise OutOfVmids(f"all {(1 << self.vmid_bits) - 1} VMIDs are in use")

    # ---- What the domains ask for ----

    def release(self, domain: Domain) -> None:
        """A destroyed domain is gone: its id and its VMID are free."""
        del self.domains[domain.id]
        self._vmids.discard(domain.p2m.vmid)

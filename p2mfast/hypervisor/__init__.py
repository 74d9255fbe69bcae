"""Xen's side of it: hosts, domains, vCPUs and their policies."""

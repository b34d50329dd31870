"""A real network: real time, real packets, and the proxies that stand before real endpoints.

Packets are dropped, delayed and refused on a cable between two network namespaces, which leaves the machine's
own network alone. nginx, haproxy, stunnel and openssl run on loopback. What is not there (root, a tool, a
feature of the kernel) skips its tests, with the reason.
"""

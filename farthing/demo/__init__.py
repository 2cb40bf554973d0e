"""A complete example on one machine: gateway, simulated provider, a day of traffic, reports and a verdict.

``farthing demo`` runs it. Everything goes through real HTTP on loopback; nothing is faked inside the gateway.
"""

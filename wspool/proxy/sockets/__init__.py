"""Clients that come by WebSocket: from the upgrade to the last frame."""

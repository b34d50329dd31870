"""The doors for clients of HTTP, over real sockets: real time passes here."""

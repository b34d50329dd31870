"""Proxy: any program in any language, through one pool."""

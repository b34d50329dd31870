"""How a request that came by HTTP is answered: through a pool, with an answer that is there, or by HTTP."""

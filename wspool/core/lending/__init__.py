"""Who gets a lane: connections and their lives, leases, the line. The root is `PoolCore`."""

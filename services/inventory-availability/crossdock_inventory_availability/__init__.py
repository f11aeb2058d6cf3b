"""inventory-availability: positions, promises and the backorder queue of one sku."""

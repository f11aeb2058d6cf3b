"""The settlement reconciler: payout files matched line by line, every residual named, proved to the cent."""

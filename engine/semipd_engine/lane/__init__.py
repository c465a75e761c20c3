"""Lanes: processes that execute batches and hold no request state, forked from a zygote, taking turns on the CPU's cores."""

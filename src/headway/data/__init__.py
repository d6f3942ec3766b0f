"""From raw files to batches: raw -> grid -> split, scale, climatology -> prepared -> windows."""

"""Event time: what time it is according to the records, and when a window is complete.

- `event_time`: the declaration: which field of a record holds its time.
- `channel`: stream time of one source partition.
- `time_keeper`: the least of them, where records of several partitions meet; and the control records that bring it.
- `windows`: the windows that a time belongs to; `calendar_windows` for days, weeks, months and years of a time zone.

All of it is a pure core: nothing here reads a clock, a topic or a table. See docs/time.md.
"""

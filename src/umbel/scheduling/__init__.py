"""Entries of schedules: what is sent when, and changing that at run time.

entry        what is sent when, under which rules      given    entries of the code
policy       missed runs and overlap, as decisions     changes  ``app.schedule``
state        how far an entry has come                 outlook  next runs and their reasons
"""

from __future__ import annotations

"""Settings of every test: no test is judged by the clock of a busy machine."""

from hypothesis import settings

settings.register_profile("farthing", deadline=None)
settings.load_profile("farthing")

"""What holds for every test."""

from hypothesis import HealthCheck, settings

# A slow machine is no fault of the code: no example fails for the time that it took.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")

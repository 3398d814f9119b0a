"""Observers: each chooses a range. To add one, write a settings class in `recipe`, a file here and a `case` below."""

from zeropoint.observers.minmax import MinMax
from zeropoint.observers.mse import Mse
from zeropoint.observers.observer import Observer
from zeropoint.observers.percentile import Percentile
from zeropoint.schema.recipe import MinMaxObserver, MseObserver, ObserverSettings, PercentileObserver


def observer_for(settings: ObserverSettings) -> Observer:
    """Return the observer that a recipe asks for."""
    match settings:
        case MinMaxObserver():
            return MinMax()
        case PercentileObserver():
            return Percentile(settings.percentile)
        case MseObserver():
            return Mse()

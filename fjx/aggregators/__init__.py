"""How the messages of a cohort become one."""

from fjx.aggregators._holders import holders_mean as holders_mean
from fjx.aggregators._mean import mean as mean
from fjx.aggregators._mean import per_field as per_field
from fjx.aggregators._mean import total as total
from fjx.aggregators._mean import uniform as uniform
from fjx.aggregators._private import private as private
from fjx.aggregators._robust import median as median

__all__ = ["holders_mean", "mean", "median", "per_field", "private", "total", "uniform"]

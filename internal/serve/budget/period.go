package budget

import (
	"errors"
	"time"
)

// Period is the time after which sums restart at 0: a duration, or [Month]. Periods of a duration are aligned in UTC,
// so that those of 24h begin at midnight.
type Period time.Duration

// Month is a calendar month in UTC.
const Month Period = -1

// ParsePeriod reads "month", or a duration of whole seconds such as "24h".
func ParsePeriod(s string) (Period, error) {
	if s == "month" {
		return Month, nil
	}
	d, err := time.ParseDuration(s)
	if err != nil || d < 0 || d%time.Second != 0 {
		return 0, errors.New("a period is month, or a number of whole seconds with a unit, such as 24h")
	}
	return Period(d), nil
}

// start returns the start of the period that contains t; without periods t, in whole seconds.
func (p Period) start(t time.Time) time.Time {
	t = t.UTC()
	if p == Month {
		return time.Date(t.Year(), t.Month(), 1, 0, 0, 0, 0, time.UTC)
	}
	return t.Truncate(max(time.Duration(p), time.Second))
}

// end returns the end of the period that contains t; the zero time without periods.
func (p Period) end(t time.Time) time.Time {
	switch p {
	case 0:
		return time.Time{}
	case Month:
		return p.start(t).AddDate(0, 1, 0)
	}
	return p.start(t).Add(time.Duration(p))
}

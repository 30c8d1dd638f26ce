//! Dates of the proleptic Gregorian calendar, as far as masks need them.

/// Microseconds of a day.
pub const DAY_MICROS: i64 = 86_400_000_000;

/// What a date is cut to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    Month,
    Quarter,
    Year,
    Decade,
}

impl Unit {
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "month" => Some(Self::Month),
            "quarter" => Some(Self::Quarter),
            "year" => Some(Self::Year),
            "decade" => Some(Self::Decade),
            _ => None,
        }
    }

    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Month => "month",
            Self::Quarter => "quarter",
            Self::Year => "year",
            Self::Decade => "decade",
        }
    }

    /// The first day of the unit that `days` since 1970-01-01 lies in; `None` beyond the calendar.
    #[must_use]
    pub fn floor_days(self, days: i64) -> Option<i64> {
        let (year, month, _) = civil(days)?;
        let (year, month) = match self {
            Self::Month => (year, month),
            Self::Quarter => (year, (month - 1) / 3 * 3 + 1),
            Self::Year => (year, 1),
            Self::Decade => (year.div_euclid(10) * 10, 1),
        };
        days_of(year, month, 1)
    }

    /// The same of a time.
    #[must_use]
    pub fn floor_micros(self, micros: i64) -> Option<i64> {
        self.floor_days(micros.div_euclid(DAY_MICROS))?.checked_mul(DAY_MICROS)
    }
}

/// Years of the calendar that are counted with, either side of zero.
const YEARS_MAX: i64 = 300_000;

/// Year, month and day of a count of days since 1970-01-01.
#[must_use]
pub fn civil(days: i64) -> Option<(i64, i64, i64)> {
    if days.abs() > YEARS_MAX * 366 {
        return None;
    }
    // Days since 0000-03-01, in eras of 400 years.
    let z = days + 719_468;
    let (era, day) = (z.div_euclid(146_097), z.rem_euclid(146_097));
    let of_era = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let of_year = day - (365 * of_era + of_era / 4 - of_era / 100);
    let shifted = (5 * of_year + 2) / 153;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = of_era + era * 400 + i64::from(month <= 2);
    Some((year, month, of_year - (153 * shifted + 2) / 5 + 1))
}

/// Days since 1970-01-01 of a date.
#[must_use]
pub fn days_of(year: i64, month: i64, day: i64) -> Option<i64> {
    if year.abs() > YEARS_MAX || !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    let year = year - i64::from(month <= 2);
    let (era, of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let of_era = of_era * 365 + of_era / 4 - of_era / 100 + of_year;
    Some(era * 146_097 + of_era - 719_468)
}

/// The same of a date that there is: no 31st of February.
#[must_use]
pub fn days(year: i64, month: i64, day: i64) -> Option<i64> {
    days_of(year, month, day).filter(|days| civil(*days) == Some((year, month, day)))
}

/// `2024-02-29`; `None` before the year 1 and beyond the calendar.
#[must_use]
pub fn iso(days: i64) -> Option<String> {
    let (year, month, day) = civil(days)?;
    (year > 0).then(|| format!("{year:04}-{month:02}-{day:02}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_and_dates_are_the_same_thing() {
        for days in (-800_000..800_000).step_by(7) {
            let (year, month, day) = civil(days).unwrap();
            assert_eq!(days_of(year, month, day), Some(days));
        }
        assert_eq!(civil(0), Some((1970, 1, 1)));
        assert_eq!(civil(19_782), Some((2024, 2, 29)));
        assert_eq!(civil(i64::MIN + 1), None);
    }

    #[test]
    fn floors() {
        let check = |unit: Unit, from: (i64, i64, i64), to: (i64, i64, i64)| {
            let days = |(y, m, d)| days_of(y, m, d).unwrap();
            assert_eq!(unit.floor_days(days(from)), Some(days(to)), "{unit:?} {from:?}");
        };
        check(Unit::Month, (2024, 2, 29), (2024, 2, 1));
        check(Unit::Quarter, (2024, 6, 30), (2024, 4, 1));
        check(Unit::Quarter, (2024, 12, 31), (2024, 10, 1));
        check(Unit::Year, (1969, 12, 31), (1969, 1, 1));
        check(Unit::Decade, (1999, 5, 5), (1990, 1, 1));
        let day = days_of(1969, 12, 1).unwrap();
        assert_eq!(Unit::Month.floor_micros(-1), Some(day * DAY_MICROS));
        assert_eq!(Unit::Month.floor_micros(i64::MAX), Some(106_751_982 * DAY_MICROS));
    }
}

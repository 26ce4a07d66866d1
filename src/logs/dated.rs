//! The time that a line of a file starts with, in the forms that most programs write.
//!
//! A form without a zone is in the zone of the hub's machine; one without a year is in the last twelve months.

use jiff::civil::DateTime;
use jiff::fmt::strtime::BrokenDownTime;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan as _};

use crate::store::Micros;

/// The length in bytes of a line's start in which a time is looked for.
const SEARCHED: usize = 512;

/// Forms with a zone, as [`jiff::fmt::strtime`] writes them: nginx and Apache.
const ZONED: [&str; 2] = ["%d/%b/%Y:%H:%M:%S %z", "%Y-%m-%d %H:%M:%S%.f %z"];

/// Forms without a zone: Log4j, Python and PostgreSQL; ISO 8601; Go and nginx's errors; Apache's errors.
const ZONELESS: [&str; 5] = [
    "%Y-%m-%d %H:%M:%S%.f",
    "%Y-%m-%dT%H:%M:%S%.f",
    "%Y/%m/%d %H:%M:%S%.f",
    "%a %b %d %H:%M:%S%.f %Y",
    "%d %b %Y %H:%M:%S%.f",
];

/// The form of syslog, behind the year that it leaves out.
const YEARLESS: &str = "%Y %b %d %H:%M:%S%.f";

/// Names of the field that has a line's time, in objects and in logfmt.
const FIELDS: [&str; 6] = ["time", "timestamp", "ts", "@timestamp", "asctime", "t"];

/// Returns the time that a line has, in one of the known forms.
#[must_use]
pub fn leading_time(line: &str) -> Option<Micros> {
    of_line(line, &TimeZone::system(), Timestamp::now())
}

fn of_line(line: &str, zone: &TimeZone, now: Timestamp) -> Option<Micros> {
    let end = (0..=SEARCHED.min(line.len())).rev().find(|end| line.is_char_boundary(*end))?;
    let line = &line[..end];
    let found =
        at_start(line, zone, now).or_else(|| in_field(line, zone, now)).or_else(|| in_access_log(line, zone, now));
    found.map(Timestamp::as_microsecond)
}

fn at_start(text: &str, zone: &TimeZone, now: Timestamp) -> Option<Timestamp> {
    let text = text.trim_start_matches(['[', '<', '(']);
    // No form starts otherwise, and most lines without a time are let go here.
    if !text.starts_with(|letter: char| letter.is_ascii_digit() || letter.is_ascii_uppercase()) {
        return None;
    }
    let word = &text[..text.find([' ', '\t', ']', '"']).unwrap_or(text.len())];
    let word = word.trim_end_matches([',', ')', '>']);
    if (20..=35).contains(&word.len())
        && let Ok(time) = word.replacen(',', ".", 1).parse()
    {
        return Some(time);
    }
    // Fractions stand behind a comma in Log4j and Python.
    let text = match text.as_bytes().get(19) {
        Some(b',') if text.as_bytes().get(20).is_some_and(u8::is_ascii_digit) => text.replacen(',', ".", 1),
        _ => text.to_owned(),
    };
    let zoned = ZONED.iter().find_map(|form| BrokenDownTime::parse_prefix(form, &text).ok()?.0.to_timestamp().ok());
    let civil = |form: &&str| BrokenDownTime::parse_prefix(form, &text).ok()?.0.to_datetime().ok();
    let local = |time: DateTime| time.to_zoned(zone.clone()).ok().map(|time| time.timestamp());
    zoned.or_else(|| local(ZONELESS.iter().find_map(civil)?)).or_else(|| {
        let year = now.to_zoned(zone.clone()).year();
        let of_year = |year: i16| {
            let text = format!("{year} {text}");
            local(BrokenDownTime::parse_prefix(YEARLESS, &text).ok()?.0.to_datetime().ok()?)
        };
        // A day ahead may be a clock or a zone; more is the year before.
        of_year(year).filter(|time| *time <= now + 24.hours()).or_else(|| of_year(year - 1))
    })
}

/// The time of an object or of logfmt: `{"time":"…"}`, `"ts":1795341600.5`, `time=…`.
fn in_field(line: &str, zone: &TimeZone, now: Timestamp) -> Option<Timestamp> {
    let object = line.starts_with('{');
    FIELDS.iter().find_map(|name| {
        let value = if object {
            let (_, rest) = line.split_once(&format!("\"{name}\""))?;
            rest.trim_start().strip_prefix(':')?.trim_start()
        } else {
            let field = format!("{name}=");
            let at = line.match_indices(&field).map(|(at, _)| at).find(|at| *at == 0 || line[..*at].ends_with(' '))?;
            &line[at + field.len()..]
        };
        let value = value.strip_prefix('"').unwrap_or(value);
        at_start(value, zone, now).or_else(|| of_number(value))
    })
}

/// Seconds, milliseconds, microseconds or nanoseconds since 1970, by their number of digits.
fn of_number(value: &str) -> Option<Timestamp> {
    let end = value.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(value.len());
    let number: i64 = value[..end].parse().ok()?;
    match end {
        10 => {
            let seconds =
                &value[..value.find(|letter: char| !letter.is_ascii_digit() && letter != '.').unwrap_or(value.len())];
            Timestamp::from_microsecond((seconds.parse::<f64>().ok()? * 1e6) as i64).ok()
        }
        13 => Timestamp::from_millisecond(number).ok(),
        16 => Timestamp::from_microsecond(number).ok(),
        19 => Timestamp::from_nanosecond(number.into()).ok(),
        _ => None,
    }
}

/// The time in brackets of an access log's line: `192.0.2.1 - ann [30/Nov/2026:10:00:00 +0000] "GET /…`.
fn in_access_log(line: &str, zone: &TimeZone, now: Timestamp) -> Option<Timestamp> {
    let (before, rest) = line.split_once('[')?;
    (before.split_ascii_whitespace().count() <= 4).then(|| at_start(rest, zone, now))?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_in_the_forms_of_most_programs_are_known() {
        let now: Timestamp = "2026-11-30T12:00:00Z".parse().expect("a time");
        let zone = TimeZone::fixed(jiff::tz::offset(1));
        for (line, time) in [
            ("2026-11-22T10:00:00.123456+00:00 hello", "2026-11-22T10:00:00.123456Z"),
            ("[2026-11-22T10:00:00Z] hello", "2026-11-22T10:00:00Z"),
            ("2026-11-22T11:00:00+01:00\thello", "2026-11-22T10:00:00Z"),
            ("2026-11-22 11:00:00,123 INFO hello", "2026-11-22T10:00:00.123Z"),
            ("2026-11-22 11:00:00.5 hello", "2026-11-22T10:00:00.5Z"),
            ("2026-11-22 11:00:00 hello", "2026-11-22T10:00:00Z"),
            ("2026-11-22T11:00:00 hello", "2026-11-22T10:00:00Z"),
            ("2026-11-22T11:00:00", "2026-11-22T10:00:00Z"),
            ("2026/11/22 11:00:00 [error] 1#1: hello", "2026-11-22T10:00:00Z"),
            ("[22/Nov/2026:10:00:00 +0000] hello", "2026-11-22T10:00:00Z"),
            ("192.0.2.1 - ann [22/Nov/2026:10:00:00 +0000] \"GET / HTTP/1.1\" 200", "2026-11-22T10:00:00Z"),
            ("[Sun Nov 22 11:00:00.250000 2026] [core:error] hello", "2026-11-22T10:00:00.25Z"),
            ("Nov 22 11:00:00 host app[1]: hello", "2026-11-22T10:00:00Z"),
            ("Nov  2 11:00:00 host app[1]: hello", "2026-11-02T10:00:00Z"),
            ("Dec 24 11:00:00 host app[1]: hello", "2025-12-24T10:00:00Z"),
            ("{\"level\":\"info\",\"time\":\"2026-11-22T10:00:00Z\"}", "2026-11-22T10:00:00Z"),
            ("{\"ts\":1795341600.5,\"msg\":\"x\"}", "2026-11-22T10:00:00.5Z"),
            ("{\"time\": 1795341600123, \"msg\":\"x\"}", "2026-11-22T10:00:00.123Z"),
            ("time=2026-11-22T10:00:00Z level=info", "2026-11-22T10:00:00Z"),
            ("level=info ts=2026-11-22T10:00:00.5Z msg=x", "2026-11-22T10:00:00.5Z"),
        ] {
            let found = of_line(line, &zone, now);
            let time = time.parse::<Timestamp>().expect("a time").as_microsecond();
            assert_eq!(found, Some(time), "{line}");
        }
        for line in [
            "hello",
            "",
            "é2026-11-22T10:00:00Z",
            "2026-13-45 99:00:00 no",
            "Started GET /",
            "{\"a\":1}",
            "12 apples",
            "items=3 [x]",
        ] {
            assert_eq!(of_line(line, &zone, now), None, "{line}");
        }
    }
}

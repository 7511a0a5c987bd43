//! Sizes and times as people write them, on the command line and in profiles.

use std::time::Duration;

/// `10`, `10s`, `1.5m`, `500ms`, `1h`: above zero.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let scale = match unit {
        "ms" => 0.001,
        "" | "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        "d" => 86400.0,
        _ => return Err("not a time; write it like 10s, 1.5m or 500ms".into()),
    };
    let value: f64 = number.parse().map_err(|_| "not a time; write it like 10s, 1.5m or 500ms".to_owned())?;
    let seconds = value * scale;
    if seconds <= 0.0 {
        return Err("a time must be above zero".into());
    }
    Duration::try_from_secs_f64(seconds)
        .ok()
        .filter(|d| d.as_secs() <= 366 * 86400)
        .ok_or_else(|| "more than a year".into())
}

/// `100`, `64K`, `1M`, `4G`: bytes.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let shift = match unit.to_ascii_uppercase().as_str() {
        "" | "B" => 0,
        "K" | "KB" | "KIB" => 10,
        "M" | "MB" | "MIB" => 20,
        "G" | "GB" | "GIB" => 30,
        "T" | "TB" | "TIB" => 40,
        _ => return Err("not a size; write it like 64K, 512M or 4G".into()),
    };
    let value: u64 = number.parse().map_err(|_| "not a size; write it like 64K, 512M or 4G".to_owned())?;
    value.checked_mul(1 << shift).ok_or_else(|| "more than any disk holds".into())
}

/// Bytes, as short as [`parse_size`] reads them back.
pub fn size(bytes: u64) -> String {
    let units = [(40, "T"), (30, "G"), (20, "M"), (10, "K")];
    let unit = units.into_iter().find(|(shift, _)| bytes > 0 && bytes % (1 << shift) == 0);
    unit.map_or_else(|| bytes.to_string(), |(shift, name)| format!("{}{name}", bytes >> shift))
}

/// Milliseconds, as short as [`parse_duration`] reads them back.
pub fn duration(ms: u64) -> String {
    let units = [(86_400_000, "d"), (3_600_000, "h"), (60_000, "m"), (1000, "s")];
    let unit = units.into_iter().find(|(unit, _)| ms > 0 && ms % unit == 0);
    unit.map_or_else(|| format!("{ms}ms"), |(unit, name)| format!("{}{name}", ms / unit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        assert_eq!(parse_duration("10"), Ok(Duration::from_secs(10)));
        assert_eq!(parse_duration("1.5m"), Ok(Duration::from_secs(90)));
        assert_eq!(parse_duration("500ms"), Ok(Duration::from_millis(500)));
        for bad in ["0", "-1", "abc", "", ".", "1x", "1e9999", "99999999999999d", "0ms", "NaN"] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn sizes() {
        assert_eq!(parse_size("4G"), Ok(4 << 30));
        assert_eq!(parse_size("64k"), Ok(64 << 10));
        assert_eq!(parse_size("1MiB"), Ok(1 << 20));
        assert_eq!((parse_size("7B"), parse_size("2kb")), (Ok(7), Ok(2 << 10)));
        for bad in ["-1", "x", "", "1.5G", "1KBB", "1KiBiB", "1IB", "99999999999999999999", "99999999999999T"] {
            assert!(parse_size(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_is_written_is_read_back() {
        for bytes in [0, 1, 1023, 1024, 3 << 20, (4 << 30) + 1] {
            assert_eq!(parse_size(&size(bytes)), Ok(bytes));
        }
        for ms in [1, 999, 1000, 61_000, 3_600_000, 86_400_000] {
            assert_eq!(parse_duration(&duration(ms)), Ok(Duration::from_millis(ms)));
        }
        assert_eq!((size(512 << 20).as_str(), duration(90_000).as_str()), ("512M", "90s"));
    }
}

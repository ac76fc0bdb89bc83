//! The two text formats: what the encoder writes, and what every scraper reads.

/// Which text format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exposition {
    /// What every scraper reads.
    Prometheus,
    /// Its successor, for scrapers that ask for it.
    OpenMetrics,
}

impl Exposition {
    pub(crate) fn asked_for_by(accept: &str) -> Exposition {
        if accept.contains("application/openmetrics-text") {
            Exposition::OpenMetrics
        } else {
            Exposition::Prometheus
        }
    }

    /// Source: the content types of the two formats' specifications.
    pub(crate) fn content_type(self) -> &'static str {
        match self {
            Exposition::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
            Exposition::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

impl Exposition {
    /// The text in this format, made from OpenMetrics'.
    pub(crate) fn of(self, openmetrics: String) -> String {
        match self {
            Exposition::OpenMetrics => openmetrics,
            Exposition::Prometheus => to_prometheus(&openmetrics),
        }
    }
}

/// The older format names a counter's family like its samples, with `_total`, and knows neither `#
/// UNIT` nor `# EOF`. Source: Prometheus' "Exposition formats" and the OpenMetrics 1.0
/// specification.
fn to_prometheus(openmetrics: &str) -> String {
    let counters: Vec<&str> = openmetrics
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.strip_suffix(" counter"))
        .collect();
    let mut prometheus = String::with_capacity(openmetrics.len());
    for line in openmetrics.lines() {
        let mut words = line.splitn(4, ' ');
        match (words.next(), words.next(), words.next(), words.next()) {
            (Some("#"), Some("UNIT"), ..) | (Some("#"), Some("EOF"), ..) => continue,
            (Some("#"), Some(what), Some(family), Some(rest)) if counters.contains(&family) => {
                prometheus.push_str(&format!("# {what} {family}_total {rest}"));
            }
            _ => prometheus.push_str(line),
        }
        prometheus.push('\n');
    }
    prometheus
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_older_format_names_counters_like_their_samples() {
        let openmetrics = "# HELP a_requests All.\n# TYPE a_requests counter\na_requests_total{x=\"# UNIT\"} 1\n\
                           # HELP b_bytes Size.\n# TYPE b_bytes gauge\n# UNIT b_bytes bytes\nb_bytes 2\n# EOF\n";
        assert_eq!(
            to_prometheus(openmetrics),
            "# HELP a_requests_total All.\n# TYPE a_requests_total counter\na_requests_total{x=\"# UNIT\"} 1\n\
             # HELP b_bytes Size.\n# TYPE b_bytes gauge\nb_bytes 2\n"
        );
    }

    #[test]
    fn only_who_asks_for_openmetrics_gets_it() {
        let prometheus_asks = "application/openmetrics-text;version=1.0.0;q=0.8,text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
        assert_eq!(Exposition::asked_for_by(prometheus_asks), Exposition::OpenMetrics);
        for accept in ["", "*/*", "text/plain"] {
            assert_eq!(Exposition::asked_for_by(accept), Exposition::Prometheus);
        }
    }
}

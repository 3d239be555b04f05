//! The report on one template in a form that can be kept and read again.

use serde::{Deserialize, Serialize};

use super::{
    finding::{Finding, Severity, Suppressed},
    place::Place,
    report::{EngineReport, Mocked, TemplateReport},
    rules::rule,
};

/// A report without its directory and its time, which are those of the run that shows it.
#[derive(Debug, Serialize, Deserialize)]
pub struct CachedReport {
    engine: EngineReport,
    findings: Vec<CachedFinding>,
    suppressed: Vec<CachedSuppressed>,
    mocked_providers: Vec<Mocked>,
    resources: usize,
    agents: usize,
}

#[derive(Debug, Serialize, Deserialize)]
struct CachedFinding {
    rule: String,
    severity: Severity,
    message: String,
    remedy: String,
    place: Place,
    address: String,
    module: String,
    source: String,
}

#[derive(Debug, Serialize, Deserialize)]
struct CachedSuppressed {
    finding: CachedFinding,
    reason: String,
    is_in_source: bool,
}

impl CachedReport {
    /// The part of a report that can be kept; `None` if the template was not checked to the end.
    pub fn of(report: &TemplateReport) -> Option<Self> {
        if !report.incomplete.is_empty() {
            return None;
        }
        let suppressed = report.suppressed.iter().map(|one| CachedSuppressed {
            finding: CachedFinding::of(&one.finding),
            reason: one.reason.clone(),
            is_in_source: one.is_in_source,
        });
        Some(Self {
            engine: report.engine.clone(),
            findings: report.findings.iter().map(CachedFinding::of).collect(),
            suppressed: suppressed.collect(),
            mocked_providers: report.mocked_providers.clone(),
            resources: report.resources,
            agents: report.agents,
        })
    }

    /// The report on a directory with the same content; `None` if it names a rule that there is not.
    pub fn report(self, directory: String, seconds: f64) -> Option<TemplateReport> {
        let suppressed = self.suppressed.into_iter().map(|one| {
            Some(Suppressed {
                finding: one.finding.finding()?,
                reason: one.reason,
                is_in_source: one.is_in_source,
            })
        });
        let findings = self.findings.into_iter().map(CachedFinding::finding);
        Some(TemplateReport {
            directory,
            engine: self.engine,
            findings: findings.collect::<Option<_>>()?,
            mocked_providers: self.mocked_providers,
            resources: self.resources,
            agents: self.agents,
            seconds,
            suppressed: suppressed.collect::<Option<_>>()?,
            incomplete: Vec::new(),
            is_cached: true,
        })
    }
}

impl CachedFinding {
    fn of(finding: &Finding) -> Self {
        Self {
            rule: finding.rule.to_string(),
            severity: finding.severity,
            message: finding.message.clone(),
            remedy: finding.remedy.clone(),
            place: finding.place.clone(),
            address: finding.address.clone(),
            module: finding.module.clone(),
            source: finding.source.clone(),
        }
    }

    fn finding(self) -> Option<Finding> {
        rule(&self.rule)?;
        Some(Finding {
            rule: self.rule.into(),
            severity: self.severity,
            message: self.message,
            remedy: self.remedy,
            place: self.place,
            address: self.address,
            module: self.module,
            source: self.source,
        })
    }
}

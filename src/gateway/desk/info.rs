//! `system.info`.

use super::Desk;
use crate::protocol::answer;
use crate::protocol::encode::Object;
use crate::runtime::reload::Report;

impl Desk {
    /// The body of its answer.
    pub(super) fn info(&self) -> Vec<u8> {
        answer::object(|info| {
            info.str("name", "cofferdam");
            info.str("version", env!("CARGO_PKG_VERSION"));
            info.int("protocol", 1);
            info.int("pid", std::process::id());
            info.int("uptime_ms", self.start.elapsed().as_millis() as u64);
            reload(self.last_reload.as_ref(), info);
            info.members(&self.about);
        })
    }
}

/// `reload` of `system.info`.
fn reload(report: Option<&Report>, info: &mut Object) {
    let Some(report) = report else { return info.null("reload") };
    let mut reload = info.object("reload");
    reload.int("ms_ago", report.at.elapsed().as_millis() as u64);
    reload.bool("ok", report.error.is_none());
    reload.opt_str("error", report.error.as_deref());
    reload.strings("restart_needed", report.restart_needed.iter().map(String::as_str));
    reload.end();
}

//! `system.info`: a client is told its own business, and an admin everybody's.

use super::Desk;
use crate::config::Quotas;
use crate::gateway::socket::Peer;
use crate::protocol::answer;
use crate::protocol::encode::Object;
use crate::runtime::reload::Report;

impl Desk {
    /// The body of its answer.
    pub(super) fn info(&self, peer: &Peer) -> Vec<u8> {
        let quotas = &self.config.quotas;
        let quotas =
            if peer.admin { serde_json::to_vec(quotas) } else { serde_json::to_vec(&seen_by(&peer.client, quotas)) };
        answer::object(|info| {
            info.str("name", "cofferdam");
            info.str("version", env!("CARGO_PKG_VERSION"));
            info.int("protocol", 1);
            info.int("pid", std::process::id());
            info.int("uptime_ms", self.start.elapsed().as_millis() as u64);
            reload(self.last_reload.as_ref(), peer.admin, info);
            info.members(&self.about.members);
            let mut limits = info.object("limits");
            limits.members(&self.about.limits);
            limits.raw("quotas", quotas.as_deref().unwrap_or(b"null"));
            limits.end();
        })
    }
}

/// What binds a client: what is registered for all, its own limits, and those of its parent, by which it is refused too.
fn seen_by(client: &str, quotas: &Quotas) -> Quotas {
    let entry = |name: &str| quotas.clients.get(name).map(|quota| (name.to_owned(), quota.clone()));
    let own = entry(client);
    let parent = own.as_ref().and_then(|(_, quota)| entry(quota.parent.as_deref()?));
    let clients = own.into_iter().chain(parent).collect();
    Quotas { model: quotas.model, registered: quotas.registered.clone(), clients }
}

/// `reload` of `system.info`.
fn reload(report: Option<&Report>, to_admin: bool, info: &mut Object) {
    let Some(report) = report else { return info.null("reload") };
    let error = if to_admin { &report.error } else { &report.error_for_all };
    let mut reload = info.object("reload");
    reload.int("ms_ago", report.at.elapsed().as_millis() as u64);
    reload.bool("ok", report.error.is_none());
    reload.opt_str("error", error.as_deref());
    reload.strings("restart_needed", report.restart_needed.iter().map(String::as_str));
    reload.end();
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{ClientQuota, Config, QuotaModel};

    #[test]
    fn a_client_sees_itself_and_its_parent() {
        let mut quotas = Quotas { model: QuotaModel::StrictTwoLevel, ..Config::default().quotas };
        for (name, parent) in [("p", None), ("a", Some("p")), ("b", Some("p")), ("c", None)] {
            let quota = ClientQuota { parent: parent.map(str::to_owned), limits: [("sessions".to_owned(), 3)].into() };
            quotas.clients.insert(name.to_owned(), quota);
        }
        let seen = |client: &str| seen_by(client, &quotas).clients.into_keys().collect::<Vec<_>>();
        assert_eq!(seen("a"), ["a", "p"]);
        // A parent is not told who its children are.
        assert_eq!(seen("p"), ["p"]);
        assert_eq!(seen("c"), ["c"]);
        assert_eq!(seen("stranger"), Vec::<String>::new());
        assert_eq!(seen_by("stranger", &quotas).registered, quotas.registered);
        assert_eq!(seen_by("a", &quotas).clients["a"], quotas.clients["a"]);
    }
}

//! Which keys must agree. Pure; runs after every key was read by itself, over values that are valid by themselves.

use super::error::Origin;
use super::reader::Reader;
use super::source::join;
use super::{ClientQuota, Config, QuotaModel, Quotas};

/// `sun_path` holds 108 bytes, the last of them a NUL: unix(7).
const SOCKET_PATH_BYTES_MAX: usize = 107;

/// Tells every rule that the configuration breaks.
pub(super) fn check(config: &Config, r: &mut Reader<'_>) {
    let (c, connections, children) = (&config.commands, &config.connections, &config.children);
    Rule { key: ("", "listen"), with: ("", "unix_socket") }.hold(
        r,
        config.listen.is_some() || config.unix_socket.is_some(),
        "null".to_owned(),
        "leaves no listener, as unix_socket is null too",
        "one of the two".to_owned(),
    );
    let socket_bytes = config.unix_socket.as_ref().map_or(0, |path| path.as_os_str().len());
    Rule { key: ("", "unix_socket"), with: ("", "unix_socket") }.hold(
        r,
        socket_bytes <= SOCKET_PATH_BYTES_MAX,
        format!("{:?}", config.unix_socket.as_deref().unwrap_or("".as_ref())),
        "is too long for a socket",
        format!("an absolute path of at most {SOCKET_PATH_BYTES_MAX} bytes"),
    );
    Rule { key: ("commands", "default_timeout_s"), with: ("commands", "max_timeout_s") }.hold(
        r,
        c.default_timeout_s <= c.max_timeout_s,
        c.default_timeout_s.to_string(),
        "is over commands.max_timeout_s",
        format!("at most {}", c.max_timeout_s),
    );
    let answers = c.max_output_bytes.saturating_mul(3);
    Rule { key: ("connections", "write_buffer_hard_bytes"), with: ("commands", "max_output_bytes") }.hold(
        r,
        connections.write_buffer_hard_bytes >= answers,
        connections.write_buffer_hard_bytes.to_string(),
        "is less than three times commands.max_output_bytes, so that an answer may not fit",
        format!("at least {answers}"),
    );
    Rule { key: ("connections", "write_buffer_soft_bytes"), with: ("connections", "write_buffer_hard_bytes") }.hold(
        r,
        connections.write_buffer_soft_bytes <= connections.write_buffer_hard_bytes,
        connections.write_buffer_soft_bytes.to_string(),
        "is over connections.write_buffer_hard_bytes",
        format!("at most {}", connections.write_buffer_hard_bytes),
    );
    Rule { key: ("connections", "reserved_connections"), with: ("connections", "max_connections") }.hold(
        r,
        connections.reserved_connections < connections.max_connections,
        connections.reserved_connections.to_string(),
        "leaves nothing of connections.max_connections",
        format!("less than {}", connections.max_connections),
    );
    Rule { key: ("children", "uid_count"), with: ("sessions", "max_sessions") }.hold(
        r,
        u64::from(children.uid_count) >= config.sessions.max_sessions,
        children.uid_count.to_string(),
        "is less than sessions.max_sessions, each of which has a uid of its own",
        format!("at least {}", config.sessions.max_sessions),
    );
    Rule { key: ("children", "uid_base"), with: ("children", "uid_count") }.hold(
        r,
        // The last number, 2^32 - 1, is "no uid" to the kernel.
        u64::from(children.uid_base) + u64::from(children.uid_count) <= u64::from(u32::MAX),
        children.uid_base.to_string(),
        "leads the pool of children.uid_count uids past the last uid",
        format!("at most {}", u32::MAX - children.uid_count),
    );
    tree(&config.quotas, r);
}

/// Two keys that must agree: `key` is told, where it stands, or where `with` does if it was not written itself.
struct Rule {
    key: (&'static str, &'static str),
    with: (&'static str, &'static str),
}

impl Rule {
    fn hold(self, r: &mut Reader<'_>, holds: bool, found: String, reason: &str, accepted: String) {
        let (path, with) = (join(self.key.0, self.key.1), join(self.with.0, self.with.1));
        // A key that was refused was read as its default: nothing can be said about that one.
        if holds || r.refused(&path) || r.refused(&with) {
            return;
        }
        match r.origin(self.key.0, self.key.1) {
            Origin::Default => {
                let origin = r.origin(self.with.0, self.with.1);
                r.refuse(&origin, &path, &format!("{found} (the default)"), reason, &accepted);
            }
            origin => r.refuse(&origin, &path, &found, reason, &accepted),
        }
    }
}

/// The rules of quotas with parents: two levels, and no child's limit over its parent's.
fn tree(quotas: &Quotas, r: &mut Reader<'_>) {
    // What was refused is missing in the tree: nothing can be said about it.
    if r.errors.iter().any(|e| e.key.starts_with("quotas")) {
        return;
    }
    let origin = r.origin("quotas", "clients");
    for (client, quota) in &quotas.clients {
        let Some(parent) = &quota.parent else { continue };
        let path = format!("quotas.clients.{client}.parent");
        let reason = match quotas.clients.get(parent) {
            _ if quotas.model == QuotaModel::Flat => "has no meaning in the model flat",
            _ if parent == client => "is the client itself",
            None => "is no client of the configuration",
            Some(ClientQuota { parent: Some(_), .. }) => "has a parent itself: there are two levels",
            Some(above) => {
                under(quotas, client, quota, above, &origin, r);
                continue;
            }
        };
        let accepted = "with the model strict_two_level, another client of quotas.clients without a parent";
        r.refuse(&origin, &path, &format!("{parent:?}"), reason, accepted);
    }
}

fn under(quotas: &Quotas, client: &str, quota: &ClientQuota, above: &ClientQuota, origin: &Origin, r: &mut Reader<'_>) {
    for (resource, &limit) in &quota.limits {
        let of_parent = above.limits.get(resource).or(quotas.registered.get(resource)).copied().unwrap_or(0);
        // -1 is unlimited: under it everything fits, and it fits under nothing else.
        if of_parent != -1 && (limit == -1 || limit > of_parent) {
            let path = format!("quotas.clients.{client}.{resource}");
            let reason = "is over its parent's limit";
            r.refuse(origin, &path, &limit.to_string(), reason, &format!("at most {of_parent}"));
        }
    }
}

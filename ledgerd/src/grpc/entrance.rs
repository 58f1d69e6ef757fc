//! Who comes in, and what they may: as everywhere else, by the rights that the
//! configuration gives.

use std::sync::{Arc, PoisonError, RwLock};

use http::HeaderMap;
use http::header::AUTHORIZATION;
use sha2::{Digest, Sha256};
use tonic::Status;

use super::listen::Peer;
use crate::rights::{Grant, Principal, Right, Who};

/// A client that is known by what it shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct KnownClient {
    pub(crate) name: String,
    /// SHA-256 of its token.
    pub(crate) token: Option<[u8; 32]>,
    /// A DNS name in its certificate.
    pub(crate) certificate: Option<String>,
}

#[derive(Clone, Debug)]
struct Rules {
    clients: Vec<KnownClient>,
    grants: Vec<Grant>,
}

/// Who is known, and what they may.
#[derive(Debug)]
pub(crate) struct Entrance {
    owner_uid: u32,
    rules: RwLock<Arc<Rules>>,
}

impl Entrance {
    pub(crate) fn new(owner_uid: u32, clients: Vec<KnownClient>, grants: Vec<Grant>) -> Entrance {
        let rules = Rules { clients, grants };
        Entrance {
            owner_uid,
            rules: RwLock::new(Arc::new(rules)),
        }
    }

    /// From now on others, or the same with other rights.
    pub(crate) fn change(&self, clients: Vec<KnownClient>, grants: Vec<Grant>) {
        let rules = Arc::new(Rules { clients, grants });
        *self.rules.write().unwrap_or_else(PoisonError::into_inner) = rules;
    }

    fn rules(&self) -> Arc<Rules> {
        Arc::clone(&self.rules.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether rights are given to any uid.
    pub(super) fn has_other_uids(&self) -> bool {
        self.rules().grants.iter().any(Grant::names_some_uid)
    }

    /// Who asks: whom the token is of if one is shown, else whom the certificate is of, or
    /// who is at the other end of a Unix socket.
    pub(super) fn admit(&self, peer: &Peer, headers: &HeaderMap) -> Result<Principal, Status> {
        if let Some(shown) = headers.get(AUTHORIZATION) {
            let shown = shown.as_bytes();
            let token = match shown.split_at_checked(7) {
                Some((scheme, token)) if scheme.eq_ignore_ascii_case(b"bearer ") => token,
                _ => {
                    return Err(Status::unauthenticated(
                        "the authorization is no bearer token; send `authorization: Bearer TOKEN`",
                    ));
                }
            };
            let hash: [u8; 32] = Sha256::digest(token).into();
            let known = self.client(|client| client.token == Some(hash));
            return known.ok_or_else(|| {
                Status::unauthenticated(
                    "no client has this token; whoever runs the ledger gives tokens, `[[clients]]` in the daemon's configuration",
                )
            });
        }
        match peer {
            Peer::Unix { uid, gids } => {
                Ok(Principal::Uid(Who::of(*uid, gids.clone(), self.owner_uid)))
            }
            Peer::Tcp { names, .. } if names.is_empty() => Err(Status::unauthenticated(
                "over TCP everybody needs a token or a certificate; send `authorization: Bearer TOKEN`, or use the Unix socket",
            )),
            Peer::Tcp { names, .. } => {
                let is_shown = |name: &String| names.contains(name);
                let known = self.client(|client| client.certificate.as_ref().is_some_and(is_shown));
                known.ok_or_else(|| {
                    Status::unauthenticated(format!(
                        "no client has a certificate for {}; whoever runs the ledger makes them known, `[[clients]]` in the daemon's configuration",
                        names.join(", ")
                    ))
                })
            }
        }
    }

    fn client(&self, is_it: impl Fn(&&KnownClient) -> bool) -> Option<Principal> {
        let rules = self.rules();
        let known = rules.clients.iter().find(is_it)?;
        Some(Principal::Client(known.name.clone()))
    }

    /// Whether somebody may do so.
    pub(super) fn check(
        &self,
        principal: &Principal,
        right: Right,
        context: &str,
    ) -> Result<(), Status> {
        match principal.may(right, context, &self.rules().grants) {
            true => Ok(()),
            false => Err(Status::permission_denied(format!(
                "{principal} may not {} this context; its owner gives rights in the daemon's configuration, `[[rights]]`",
                right.verb()
            ))),
        }
    }
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;

    fn headers(shown: Option<&str>) -> HeaderMap {
        let mut headers = HeaderMap::new();
        if let Some(shown) = shown {
            headers.insert(AUTHORIZATION, shown.parse().expect("ASCII"));
        }
        headers
    }

    #[test]
    fn who_shows_a_token_is_whom_it_is_of_and_else_the_kernel_knows() {
        let reporter = KnownClient {
            name: "reporter".to_owned(),
            token: Some(Sha256::digest("sesame").into()),
            certificate: None,
        };
        let auditor = KnownClient {
            name: "auditor".to_owned(),
            token: None,
            certificate: Some("auditor.example".to_owned()),
        };
        let grants = vec![
            Grant::new(Right::Append, ["*"]).clients(["reporter"]),
            Grant::new(Right::Read, ["loan-*"]).gids([55]),
        ];
        let entrance = Entrance::new(1000, vec![reporter, auditor], grants);
        let unix = |uid, gids: &[u32]| Peer::Unix {
            uid,
            gids: gids.to_vec(),
        };
        let showing = |names: &[&str]| Peer::Tcp {
            ip: [127, 0, 0, 1].into(),
            names: names.iter().copied().map(str::to_owned).collect(),
        };
        let tcp = showing(&[]);
        let of_auditor = showing(&["a.example", "auditor.example"]);
        for (peer, shown, expected) in [
            (&unix(7, &[]), None, Ok("uid 7")),
            (
                &unix(7, &[]),
                Some("Bearer sesame"),
                Ok("client \"reporter\""),
            ),
            (&tcp, Some("bearer sesame"), Ok("client \"reporter\"")),
            (&tcp, None, Err(Code::Unauthenticated)),
            (&of_auditor, None, Ok("client \"auditor\"")),
            (
                &of_auditor,
                Some("Bearer sesame"),
                Ok("client \"reporter\""),
            ),
            (&showing(&["*.example"]), None, Err(Code::Unauthenticated)),
            (&tcp, Some("Bearer "), Err(Code::Unauthenticated)),
            (&tcp, Some("Bearer another"), Err(Code::Unauthenticated)),
            (&tcp, Some("Basic sesame"), Err(Code::Unauthenticated)),
            // No way round a token that nobody has.
            (
                &unix(0, &[]),
                Some("Bearer another"),
                Err(Code::Unauthenticated),
            ),
        ] {
            let admitted = entrance.admit(peer, &headers(shown));
            let found = admitted.map(|principal| principal.to_string());
            let found = found.map_err(|status| status.code());
            assert_eq!(found, expected.map(str::to_owned), "{peer:?} {shown:?}");
        }
        for (peer, right, context, is_allowed) in [
            (unix(1000, &[]), Right::Admin, "any", true),
            (unix(7, &[55]), Right::Read, "loan-7", true),
            (unix(7, &[55]), Right::Append, "loan-7", false),
            (unix(7, &[55]), Right::Read, "any", false),
            (unix(7, &[]), Right::Read, "loan-7", false),
        ] {
            let principal = entrance.admit(&peer, &headers(None)).expect("known");
            let checked = entrance.check(&principal, right, context);
            let code = checked.map_err(|status| status.code());
            let expected = is_allowed.then_some(()).ok_or(Code::PermissionDenied);
            assert_eq!(code, expected, "{peer:?} {right:?} {context}");
        }
        assert!(entrance.has_other_uids());
        entrance.change(Vec::new(), Vec::new());
        assert!(!entrance.has_other_uids());
        assert!(
            entrance
                .admit(&tcp, &headers(Some("Bearer sesame")))
                .is_err()
        );
    }
}

//! TLS, and clients that are known by their certificates.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use ledger_tests::{Instance, eventually};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint, Identity};
use tonic::{Code, Status};

use super::{Client, ContextServiceClient, Door, TOKEN, append, new, right, showing};
use super::{connected, with_reporter};
use crate::PROGRAMS;

/// Whose certificates are trusted.
struct Authority {
    certificate: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Authority {
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        let certificate = params.self_signed(&key).expect("signed").pem();
        let issuer = Issuer::new(params, key);
        Authority {
            certificate,
            issuer,
        }
    }

    /// A certificate for this name, and its key.
    fn issued(&self, name: &str) -> (String, String) {
        let params = CertificateParams::new([name.to_owned()]).expect("a name");
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("signed");
        (certificate.pem(), key.serialize_pem())
    }

    /// A client that trusts it, with a certificate if there is one.
    async fn client(
        &self,
        port: &str,
        shown: Option<(String, String)>,
    ) -> Result<Client, tonic::transport::Error> {
        let trusted = Certificate::from_pem(&self.certificate);
        let mut tls = ClientTlsConfig::new().ca_certificate(trusted);
        if let Some((certificate, key)) = shown {
            tls = tls.identity(Identity::from_pem(certificate, key));
        }
        let endpoint = Endpoint::from_shared(format!("https://localhost:{port}"))?;
        let channel = endpoint.tls_config(tls)?.connect().await?;
        Ok(ContextServiceClient::new(channel))
    }
}

/// The files of a server.
struct Files {
    certificate: PathBuf,
    key: PathBuf,
    client_ca: PathBuf,
}

impl Files {
    fn of(dir: &Path, authority: &Authority) -> Files {
        let files = Files {
            certificate: dir.join("server.pem"),
            key: dir.join("server.key"),
            client_ca: dir.join("clients.pem"),
        };
        files.write(authority);
        files
    }

    fn write(&self, authority: &Authority) {
        let (certificate, key) = authority.issued("localhost");
        fs::write(&self.certificate, certificate).expect("written");
        fs::write(&self.key, key).expect("written");
        fs::set_permissions(&self.key, Permissions::from_mode(0o600)).expect("ours");
        fs::write(&self.client_ca, &authority.certificate).expect("written");
    }
}

fn text(path: &Path) -> &str {
    path.to_str().expect("text")
}

/// A door at every address of this machine, its files, and whom they trust.
fn enciphered(config: &str) -> (Door, Files, Authority) {
    let (instance, authority) = (Instance::new(PROGRAMS), Authority::new());
    let files = Files::of(instance.runtime_dir(), &authority);
    let config = instance.configure(config);
    let args = [
        "--config",
        text(&config),
        "--grpc",
        "0.0.0.0:0",
        "--grpc-certificate",
        text(&files.certificate),
        "--grpc-key",
        text(&files.key),
        "--grpc-client-ca",
        text(&files.client_ca),
    ];
    let door = Door::open(instance, &args);
    (door, files, authority)
}

fn port(door: &Door) -> &str {
    door.uri.rsplit_once(':').expect("a port").1
}

const AUDITOR: &str = "[[clients]]\nname = \"auditor\"\ncertificate_name = \"auditor.example\"\n\
    [[rights]]\ncontexts = [\"*\"]\nclients = [\"auditor\"]\nright = \"append\"\n";

#[test]
fn with_a_certificate_it_is_served_to_all_and_clients_are_known_by_theirs() {
    let config = format!("{}{AUDITOR}", with_reporter(&right("append")));
    let (door, _files, authority) = enciphered(&config);
    let appended = async |shown: Option<(String, String)>| -> Result<u64, Status> {
        let client = authority.client(port(&door), shown).await;
        let mut client = client.expect("it is heard");
        Ok(append(&mut client, new("c", "k", "v")).await?.sequence)
    };
    door.runtime.block_on(async {
        assert_eq!(
            appended(Some(authority.issued("auditor.example")))
                .await
                .expect("known"),
            1
        );
        for unknown in [None, Some(authority.issued("another.example"))] {
            let status = appended(unknown).await.expect_err("nobody knows it");
            assert_eq!(status.code(), Code::Unauthenticated, "{status}");
        }
        // What a client says counts for more than what its host shows.
        for shown in [None, Some(authority.issued("auditor.example"))] {
            let client = authority.client(port(&door), shown).await;
            let mut client = client.expect("it is heard");
            let appended = client.append(showing(TOKEN, new("c", "k", "v"))).await;
            appended.expect("it is the reporter");
            let wrong = client.append(showing("wrong", new("c", "k", "v"))).await;
            let status = wrong.expect_err("nobody has it");
            assert_eq!(status.code(), Code::Unauthenticated, "{status}");
        }
    });
}

#[test]
fn who_speaks_in_the_clear_or_shows_a_certificate_of_others_is_not_heard() {
    let (door, _files, authority) = enciphered(AUDITOR);
    let stranger = Authority::new();
    door.runtime.block_on(async {
        let in_the_clear = format!("http://localhost:{}", port(&door));
        let mut client = connected(&in_the_clear).await;
        let refused = append(&mut client, new("c", "k", "v")).await;
        refused.expect_err("it is not understood");

        let forged = Some(stranger.issued("auditor.example"));
        // In TLS 1.3 a client hears of it only when it reads.
        let refused = match authority.client(port(&door), forged).await {
            Ok(mut client) => append(&mut client, new("c", "k", "v")).await.is_err(),
            Err(_) => true,
        };
        assert!(refused);
        let distrusting = stranger.client(port(&door), None).await;
        distrusting.expect_err("it is not who the client trusts");

        let known = Some(authority.issued("auditor.example"));
        let mut client = authority.client(port(&door), known).await.expect("heard");
        let appended = append(&mut client, new("c", "k", "v")).await;
        assert_eq!(appended.expect("it goes on").sequence, 1);
    });
}

#[test]
fn who_says_nothing_keeps_nobody_out() {
    let (door, _files, authority) = enciphered(AUDITOR);
    let silent: Vec<_> = (0..100)
        .map(|_| std::net::TcpStream::connect(format!("localhost:{}", port(&door))))
        .collect();
    door.runtime.block_on(async {
        let known = Some(authority.issued("auditor.example"));
        let mut client = authority.client(port(&door), known).await.expect("heard");
        append(&mut client, new("c", "k", "v"))
            .await
            .expect("it is served");
    });
    assert!(silent.iter().all(Result::is_ok));
}

#[test]
fn a_certificate_that_was_renewed_is_shown_after_a_reload_and_a_wrong_one_changes_nothing() {
    let (door, files, before) = enciphered(AUDITOR);
    let connect = |authority: &Authority| {
        let connected = authority.client(port(&door), None);
        door.runtime.block_on(connected).map(drop)
    };
    connect(&before).expect("it is trusted");
    fs::write(&files.certificate, "nothing").expect("written");
    door.instance.reload_daemon();
    eventually("it says why it does not take it", || {
        let said = "server.pem has no certificate";
        door.instance.has_said(said).then_some(())
    });
    connect(&before).expect("it still is");

    let after = Authority::new();
    files.write(&after);
    door.instance.reload_daemon();
    eventually("it is shown", || connect(&after).ok());
    connect(&before).expect_err("it is another's");
}

#[test]
fn a_reload_does_not_make_it_clear_text() {
    let (instance, authority) = (Instance::new(PROGRAMS), Authority::new());
    let files = Files::of(instance.runtime_dir(), &authority);
    let settings = format!(
        "grpc = [\"0.0.0.0:0\"]\ngrpc_certificate = {:?}\ngrpc_key = {:?}\n",
        files.certificate, files.key
    );
    let reporter = with_reporter(&right("append"));
    let config = instance.configure(&format!("{settings}{reporter}"));
    let door = Door::open(instance, &["--config", text(&config)]);
    let settings = "grpc = [\"127.0.0.1:0\"]\n";
    door.instance.configure(&format!("{settings}{reporter}"));
    door.instance.reload_daemon();
    eventually("it says that this is not taken over", || {
        let said = "this takes a new start: grpc_certificate, grpc";
        door.instance.has_said(said).then_some(())
    });
    door.runtime.block_on(async {
        let mut client = connected(&format!("http://localhost:{}", port(&door))).await;
        let refused = client.append(showing(TOKEN, new("c", "k", "v"))).await;
        refused.expect_err("it is not understood");
        let client = authority.client(port(&door), None).await;
        let mut client = client.expect("it is heard");
        let appended = client.append(showing(TOKEN, new("c", "k", "v"))).await;
        appended.expect("it is served as before");
    });
}

#[test]
fn what_cannot_be_served_is_told() {
    let (instance, authority) = (Instance::new(PROGRAMS), Authority::new());
    let files = Files::of(instance.runtime_dir(), &authority);
    let (certificate, key) = (text(&files.certificate), text(&files.key));
    let complained = |args: &[&str], said: &str| {
        let run = [&["config", "check"], args].concat();
        let complaint = instance.complained(&run);
        assert!(complaint.contains(said), "{complaint}");
    };
    complained(
        &["--grpc-certificate", certificate],
        "`grpc_certificate` is given without `grpc_key`",
    );
    complained(
        &["--grpc-key", key],
        "`grpc_key` is given without `grpc_certificate`",
    );
    complained(
        &["--grpc-client-ca", certificate],
        "`grpc_client_ca` is given without `grpc_certificate`",
    );
    let both = ["--grpc-certificate", certificate, "--grpc-key", key];
    let authorities = instance.runtime_dir().join("empty.pem");
    fs::write(&authorities, "").expect("written");
    complained(
        &[&both[..], &["--grpc-client-ca", text(&authorities)]].concat(),
        "empty.pem has no certificate",
    );
    fs::set_permissions(&files.key, Permissions::from_mode(0o644)).expect("ours");
    complained(&both, "has mode 644 and is for everybody");
    fs::set_permissions(&files.key, Permissions::from_mode(0o640)).expect("ours");
    instance.printed(&[&["config", "check"], &both[..]].concat());

    let (_, another) = authority.issued("localhost");
    fs::write(&files.key, another).expect("written");
    complained(&both, "server.pem cannot be served");
    fs::write(&files.key, "nothing").expect("written");
    complained(&both, "cannot read the key of gRPC from");
    let config = instance.configure(AUDITOR);
    complained(
        &["--config", text(&config)],
        "client \"auditor\" is known by its certificate, and no `grpc_client_ca`",
    );
    let config = instance.configure("[[clients]]\nname = \"nobody\"\n");
    complained(
        &["--config", text(&config)],
        "nothing makes client \"nobody\" known",
    );
}

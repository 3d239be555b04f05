//! A token that is revoked while its holder is inside.

use outpost::{
    connect::{SSH_PORT, Server},
    proto::outpost::v1::{self as api},
    secret::Secret,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    time::timeout,
};

use super::{PATIENCE, Scene};
use crate::control::{connect, version_request};

async fn token(scene: &mut Scene, name: &str) -> (String, Secret) {
    let request = api::CreateTokenRequest {
        name: name.to_owned(),
        ..Default::default()
    };
    let made = scene.lab.api.create_token(request).await.unwrap();
    let made = made.into_inner();
    (made.token.unwrap().id, Secret::new(made.value))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revoked_token_ends_tunnels_and_followed_logs_and_nobody_else_s() {
    let mut scene = Scene::new().await;
    let (id, value) = token(&mut scene, "laptop").await;
    let server = Server::new(scene.client.clone(), value.clone());
    let mut conn = server.dial_agent(scene.good).await.unwrap();
    timeout(PATIENCE, conn.wait_until_reachable())
        .await
        .unwrap()
        .unwrap();
    let opened = async { tokio::join!(conn.connect(SSH_PORT), scene.listener.accept()) };
    let (here, there) = timeout(PATIENCE, opened).await.unwrap();
    let (mut here, (mut there, _)) = (here.unwrap(), there.unwrap());
    here.write_all(b"before").await.unwrap();
    let mut before = [0; 6];
    timeout(PATIENCE, there.read_exact(&mut before))
        .await
        .unwrap()
        .unwrap();
    let mut holder = connect(scene.lab.server.url(), &value);
    let version = scene.lab.api.create_version(version_request("demo")).await;
    let followed = api::StreamLogsRequest {
        job_id: version.unwrap().into_inner().job.unwrap().id,
        after: 0,
        follow: true,
    };
    let mut own = holder
        .stream_logs(followed.clone())
        .await
        .unwrap()
        .into_inner();
    let mut foreign = scene
        .lab
        .api
        .stream_logs(followed)
        .await
        .unwrap()
        .into_inner();

    let revoked = api::RevokeTokenRequest { id };
    scene.lab.api.revoke_token(revoked).await.unwrap();

    // The agent hears that its peer has gone, and ends what that one has open.
    let ended = timeout(PATIENCE, there.read_to_end(&mut Vec::new())).await;
    assert!(ended.is_ok(), "the tunnel goes on");
    let ended = timeout(PATIENCE, own.message()).await.unwrap();
    assert!(!matches!(ended, Ok(Some(_))), "{ended:?}");
    assert!(server.dial_agent(scene.good).await.is_err());
    let beside = timeout(std::time::Duration::from_millis(200), foreign.message()).await;
    assert!(beside.is_err(), "{beside:?}");
    scene.others_go_on().await;
    scene.end().await;
}

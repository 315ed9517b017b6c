//! What the engine's thread does for links and link groups.

use super::{now, Runner, Use};
use crate::engine::group::LAST_WORDS;
use crate::link::Link;
use crate::verbs::{AsyncEvent, Context};
use smc_wire::cdc;
use smc_wire::group::{self, Incoming};
use smc_wire::llc::{DeleteReason, Llc};
use std::net::Ipv4Addr;
use std::sync::Arc;

impl Runner {
    /// Takes what has come on a link; `woken`: by its completion queue.
    pub(super) fn take(&mut self, id: u64, woken: bool) {
        let Some(link) = self.links.get(&id).map(|(link, _)| Arc::clone(link)) else { return };
        let mut taking = link.take(woken);
        let look_again = loop {
            while let Some(message) = taking.next() {
                self.message(id, &message);
            }
            let look_again = taking.rest();
            if taking.is_empty() {
                break look_again;
            }
        };
        if let Some(delay) = look_again {
            self.unarmed.retain(|(_, other)| *other != id);
            self.unarmed.push((now() + delay, id));
        }
    }

    fn message(&mut self, id: u64, bytes: &[u8]) {
        if let Some((link, Use::Forming(_))) = self.links.get(&id) {
            let link = Arc::clone(link);
            if self.manager_takes_first_message(&link) {
                return;
            }
        }
        match self.links.get(&id).map(|(_, used)| *used) {
            Some(Use::Forming(_)) if bytes.first() == Some(&cdc::TYPE) => {}
            Some(Use::Forming(number)) => {
                self.with_handshake(number, |handshake, _| match Llc::decode(bytes) {
                    Ok(Some(message)) => handshake.received_llc(&message),
                    Ok(None) => {}
                    Err(_) => handshake.link_failed(),
                })
            }
            Some(Use::Group) => {
                let Some(group) = self.groups.get_mut(&id) else { return };
                match group.wire.receive(now(), bytes) {
                    Incoming::Cdc(cdc) => {
                        if let Some(conn) = group.wire.connection(cdc.token).map(Arc::clone) {
                            conn.received(&cdc);
                            self.sweep(conn.id);
                        }
                    }
                    Incoming::Llc => self.drive_group(id),
                }
            }
            None => {}
        }
    }

    pub fn link_failed(&mut self, id: u64) {
        match self.links.get(&id).map(|(_, used)| *used) {
            Some(Use::Forming(number)) => self.with_handshake(number, |handshake, _| handshake.link_failed()),
            Some(Use::Group) => {
                if let Some(group) = self.groups.get_mut(&id) {
                    group.wire.link_failed();
                    group.link.fail();
                }
                self.drive_group(id);
            }
            None => {}
        }
    }

    pub(super) fn device_event(&mut self, number: u64) {
        let address = Ipv4Addr::from(number as u32);
        let Some(port) = self.ports.get(&address).map(Arc::clone) else { return };
        while let Some(event) = port.context.next_event() {
            let failed = |link: &Link| {
                Arc::ptr_eq(&link.port.context, &port.context)
                    && match event {
                        AsyncEvent::DeviceFatal => true,
                        AsyncEvent::PortDown(down) => link.port.number == down,
                        AsyncEvent::Other => false,
                    }
            };
            if event == AsyncEvent::DeviceFatal {
                self.epoll.remove(port.context.async_fd());
                self.ports.remove(&address);
            }
            let links = self.links.iter().filter(|(_, (link, _))| failed(link)).map(|(id, _)| *id);
            for id in links.collect::<Vec<_>>() {
                log::info!("link {id}: {event:?}");
                self.link_failed(id);
            }
        }
    }

    /// Devices are being removed. The driver of hardware tells its users (IBV_EVENT_DEVICE_FATAL); for soft-RoCE and siw the kernel waits for them
    /// without a word, but for the uevent of the device's file.
    pub(super) fn devices_removed(&mut self) {
        let Some(news) = &self.news else { return };
        let gone: Vec<String> = std::iter::from_fn(|| news.next_removed()).collect();
        if gone.is_empty() {
            return;
        }
        let is_gone = |context: &Context| gone.contains(&context.file());
        let epoll = &self.epoll;
        self.ports.retain(|_, port| {
            let stays = !is_gone(&port.context);
            if !stays {
                epoll.remove(port.context.async_fd());
            }
            stays
        });
        // Handshakes that have no link yet make none on it.
        for handshake in self.handshakes.values_mut() {
            handshake.port.take_if(|port| is_gone(&port.context));
        }
        let links = self.links.iter().filter(|(_, (link, _))| is_gone(&link.port.context)).map(|(id, _)| *id);
        for id in links.collect::<Vec<_>>() {
            log::info!("link {id}: its device is removed");
            match self.groups.get_mut(&id) {
                // It still works, so that the peer can be told.
                Some(group) => {
                    group.wire.terminate(DeleteReason::OPERATOR);
                    self.drive_group(id);
                }
                None => self.link_failed(id),
            }
        }
    }

    // Link groups.

    /// Does what a group's state machine wants.
    pub fn drive_group(&mut self, id: u64) {
        loop {
            let Some(group) = self.groups.get_mut(&id) else { return };
            let Some(action) = group.wire.poll_action() else { return };
            match action {
                group::Action::Send(message) => group.link.send_llc(message),
                group::Action::RkeyConfirmed(rmb, confirmed) => {
                    log::debug!("link group {id}: rkey {:#x} confirmed: {confirmed}", rmb.rkey);
                    if let Some(number) = group.confirming.remove(&rmb.rkey) {
                        self.with_handshake(number, |handshake, runner| {
                            runner.rkey_confirmed(handshake, confirmed);
                        });
                    }
                }
                group::Action::RkeyDeleted(rkey) => group.forgotten(rkey),
                group::Action::Ended(why) => {
                    log::info!("link group {id} has ended: {why:?}");
                    group.gone_at = Some(now() + LAST_WORDS);
                    let group_link = Arc::clone(&group.link);
                    let waiting: Vec<u64> = group.confirming.drain().map(|(_, number)| number).collect();
                    let connections: Vec<_> = group.wire.connections().map(|(_, c)| Arc::clone(c)).collect();
                    for number in waiting {
                        self.with_handshake(number, |handshake, runner| {
                            runner.rkey_confirmed(handshake, false)
                        });
                    }
                    group_link.forget_all();
                    for conn in connections {
                        conn.link_lost();
                        self.sweep(conn.id);
                    }
                }
            }
        }
    }

    /// Takes a link out of use.
    pub fn drop_link(&mut self, id: u64) {
        if let Some((link, _)) = self.links.remove(&id) {
            self.epoll.remove(link.fd());
            link.fail();
            self.manager_forgets(id);
        }
    }
}

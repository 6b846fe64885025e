//! Alarms: what the cluster knows to be wrong with a member.
//!
//! Invariants: raised and cleared by log entries only, so that every member has the same. While any NOSPACE alarm stands, writes that
//! need space are refused; while any CORRUPT alarm stands, all writes are (see [`crate::apply`]).

use std::collections::BTreeMap;

use bytes::Bytes;
use prost::Message;
use proto::etcdserverpb::{AlarmMember, AlarmType};

/// The alarms that stand, by kind and member.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Alarms {
    // Kinds are kept as numbers: a newer member may raise one that we do not know, and it must stay the same bytes.
    standing: BTreeMap<(i32, u64), AlarmMember>,
}

impl Alarms {
    /// The alarms stored in the bucket `alarm`: each is a key, with an empty value.
    pub fn recover(keys: impl IntoIterator<Item = Bytes>) -> Result<Alarms, prost::DecodeError> {
        let mut alarms = Alarms::default();
        for key in keys {
            let alarm = AlarmMember::decode(key)?;
            alarms.standing.entry((alarm.alarm, alarm.member_id)).or_insert(alarm);
        }
        Ok(alarms)
    }

    /// Raises an alarm. Returns it, and whether it is new and must be stored.
    pub fn activate(&mut self, member_id: u64, alarm: i32) -> (AlarmMember, bool) {
        let known = self.standing.contains_key(&(alarm, member_id));
        let alarm = *self
            .standing
            .entry((alarm, member_id))
            .or_insert(AlarmMember { member_id, alarm });
        (alarm, !known)
    }

    /// Clears an alarm; returns it if it stood, to be deleted.
    pub fn deactivate(&mut self, member_id: u64, alarm: i32) -> Option<AlarmMember> {
        self.standing.remove(&(alarm, member_id))
    }

    /// The alarms of one kind; all for NONE. By kind, then member.
    pub fn list(&self, kind: i32) -> Vec<AlarmMember> {
        let all = kind == AlarmType::None as i32;
        self.standing
            .values()
            .filter(|alarm| all || alarm.alarm == kind)
            .copied()
            .collect()
    }

    /// Whether any member has this alarm.
    pub fn stands(&self, kind: AlarmType) -> bool {
        self.standing.keys().any(|(alarm, _)| *alarm == kind as i32)
    }
}

/// The key of an alarm in the bucket `alarm` (etcd server/storage/schema/alarm.go).
pub fn alarm_key(alarm: &AlarmMember) -> Bytes {
    alarm.encode_to_vec().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_alarm_is_stored_once_and_found_again() {
        let mut alarms = Alarms::default();
        let (first, new) = alarms.activate(7, AlarmType::Nospace as i32);
        assert!(new);
        assert!(!alarms.activate(7, AlarmType::Nospace as i32).1);
        let (second, _) = alarms.activate(u64::MAX, AlarmType::Corrupt as i32);
        assert_eq!(alarms.list(AlarmType::None as i32), vec![first, second]);
        assert_eq!(alarms.list(AlarmType::Corrupt as i32), vec![second]);
        let again = Alarms::recover([alarm_key(&first), alarm_key(&second)]).unwrap();
        assert_eq!(again, alarms);
        assert!(alarms.stands(AlarmType::Nospace));
        assert_eq!(alarms.deactivate(7, AlarmType::Nospace as i32), Some(first));
        assert_eq!(alarms.deactivate(7, AlarmType::Nospace as i32), None);
        assert!(!alarms.stands(AlarmType::Nospace));
    }

    #[test]
    fn the_stored_form_is_a_protobuf_message() {
        assert_eq!(
            &alarm_key(&AlarmMember { member_id: 5, alarm: 1 })[..],
            [0x08, 5, 0x10, 1]
        );
        assert!(Alarms::recover([Bytes::from_static(&[0xff])]).is_err());
    }
}

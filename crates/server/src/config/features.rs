//! etcd's server feature gates (etcd server/features/etcd_features.go): names, stages and the `--feature-gates` syntax.

/// How finished a feature is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Off unless asked for.
    Alpha,
    /// On unless refused.
    Beta,
}

impl Stage {
    /// The label value in `etcd_server_feature_enabled`.
    pub fn label(self) -> &'static str {
        match self {
            Stage::Alpha => "ALPHA",
            Stage::Beta => "BETA",
        }
    }
}

macro_rules! gates {
    ($($field:ident $name:literal $stage:ident $doc:literal),* $(,)?) => {
        /// Which optional behaviours are on.
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub struct Features {
            $(#[doc = $doc] pub $field: bool,)*
        }

        impl Default for Features {
            fn default() -> Features {
                Features { $($field: Stage::$stage == Stage::Beta,)* }
            }
        }

        impl Features {
            /// Every gate: name, stage, whether it is on. Sorted by name.
            pub fn all(&self) -> Vec<(&'static str, Stage, bool)> {
                let mut all = vec![$(($name, Stage::$stage, self.$field),)*];
                all.sort_by_key(|(name, _, _)| *name);
                all
            }

            fn set(&mut self, name: &str, on: bool) -> bool {
                match name {
                    $($name => self.$field = on,)*
                    _ => return false,
                }
                true
            }
        }
    };
}

gates! {
    stop_grpc_on_defrag "StopGRPCServiceOnDefrag" Alpha "Report NOT_SERVING while defragmenting.",
    initial_corrupt_check "InitialCorruptCheck" Alpha "Compare hashes with the peers before serving.",
    compact_hash_check "CompactHashCheck" Alpha "The leader compares compaction hashes of followers.",
    txn_write_shared_buffer "TxnModeWriteWithSharedBuffer" Beta "Accepted and without effect: reads in a txn share buffers anyway.",
    lease_checkpoint "LeaseCheckpoint" Alpha "The leader logs how long leases have left.",
    lease_checkpoint_persist "LeaseCheckpointPersist" Alpha "Store logged checkpoints.",
    set_member_local_addr "SetMemberLocalAddr" Alpha "Dial peers from the advertised address.",
    fast_lease_keep_alive "FastLeaseKeepAlive" Beta "Renew a known lease without waiting for the applied index.",
    priority_request "PriorityRequest" Alpha "Let lease revocations pass the limit of unapplied entries.",
}

impl Features {
    /// Applies "A=true,B=false"; `AllAlpha` and `AllBeta` set a whole stage, before the single ones.
    pub fn apply(&mut self, text: &str) -> Result<(), String> {
        let mut single = Vec::new();
        for pair in text.split(',').map(str::trim).filter(|pair| !pair.is_empty()) {
            let Some((name, value)) = pair.split_once('=') else {
                return Err(format!("missing bool value for {pair}"));
            };
            let (name, value) = (name.trim(), value.trim());
            let on = super::flag::parse_bool(value).ok_or_else(|| {
                format!("invalid value of {name}={value}, err: strconv.ParseBool: parsing {value:?}: invalid syntax")
            })?;
            match name {
                "AllAlpha" => self.set_stage(Stage::Alpha, on),
                "AllBeta" => self.set_stage(Stage::Beta, on),
                _ => single.push((name, on)),
            }
        }
        for (name, on) in single {
            if !self.set(name, on) {
                return Err(format!("unrecognized feature gate: {name}"));
            }
        }
        Ok(())
    }

    fn set_stage(&mut self, stage: Stage, on: bool) {
        for (name, of, _) in self.all() {
            if of == stage {
                self.set(name, on);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Features;

    #[test]
    fn sets_single_gates_and_stages() {
        let mut features = Features::default();
        assert!(features.fast_lease_keep_alive && !features.initial_corrupt_check);
        features.apply("AllAlpha=true,InitialCorruptCheck=false").unwrap();
        assert!(features.compact_hash_check && !features.initial_corrupt_check && features.fast_lease_keep_alive);
        assert_eq!(
            features.apply("Nope=true").unwrap_err(),
            "unrecognized feature gate: Nope"
        );
        assert_eq!(
            features.apply("InitialCorruptCheck").unwrap_err(),
            "missing bool value for InitialCorruptCheck"
        );
    }
}

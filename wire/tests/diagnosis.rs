//! The codes here and the reasons that the tools show are the same table.

use smc_core::reason::Reason;
use smc_wire::Diagnosis;

#[test]
fn every_diagnosis_is_a_reason_of_the_same_name_and_the_other_way_round() {
    for &diagnosis in Diagnosis::ALL {
        let reason = Reason::from_code(diagnosis.0).unwrap_or_else(|| panic!("{diagnosis} is no reason"));
        assert_eq!(Some(reason.name()), diagnosis.name());
    }
    for &reason in Reason::ALL.iter().filter(|reason| reason.code() != 0) {
        assert_eq!(Diagnosis(reason.code()).name(), Some(reason.name()));
    }
    assert_eq!(Diagnosis(0x0301_0002).name(), None);
    assert_eq!(Diagnosis::NOSMCDEV.to_string(), "0x03030000 SMC_CLC_DECL_NOSMCDEV");
}

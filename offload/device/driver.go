package device

// Which model a card gets when nobody names one: it goes by the kernel driver that the card is
// bound to, which is what the agent, `hwtest run` and `describe nic` know of a card before they
// have asked it anything.

// modelOf says which shipped model is for the cards of a kernel driver that takes tc flower
// on representors. Cards of one driver differ, and so does their firmware: what the model
// claims is asked of the card at hand (offload/tcflower).
var modelOf = map[string]string{
	"mlx5_core": "mlx5", "mlx5e_rep": "mlx5",
	"ice":     "ice",
	"bnxt_en": "bnxt", "bnxt_vf_rep": "bnxt",
	"nfp":       "nfp",
	"rvu_nicpf": "octeontx2",
	"tcamsim":   "tcamsim",
}

// OfDriver returns the name of the model for the cards of a kernel driver; ok is false if
// none ships.
func OfDriver(driver string) (model string, ok bool) {
	model, ok = modelOf[driver]
	return model, ok
}

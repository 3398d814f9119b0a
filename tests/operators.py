"""Programs of single operators: with tests/honest_programs.py, what the gate's list of operators is generated from.

Each entry is an expression over the values below, of static shape, so that both its export and its decomposition
become short programs. Random, stateful, writing and data-dependent operators are not here, and so not allowed.
"""

import warnings

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.nn import functional as F  # noqa: N812 - the field's own name for it

POINTWISE = """
abs acos acosh asin asinh atan atanh ceil cos cosh erf erfc exp exp2 expm1 floor frac log log10 log1p log2 neg
reciprocal relu round rsqrt sigmoid sign sin sinh sqrt square tan tanh trunc isnan isinf isfinite nan_to_num
logical_not sgn positive signbit
"""
BINARY = """
add sub mul div true_divide pow atan2 maximum minimum fmod remainder floor_divide eq ne lt le gt ge logical_and
logical_or logical_xor copysign fmax fmin
"""
REDUCTIONS = """
sum mean amax amin prod std var logsumexp any all cumsum cumprod argmax argmin softmax log_softmax argsort unbind
"""
ACTIVATIONS = """
relu relu6 elu selu celu gelu silu mish hardswish hardsigmoid hardtanh leaky_relu logsigmoid softplus softsign
tanhshrink softshrink hardshrink glu
"""

EXPRESSIONS = """
x.add_(1) x.mul_(2) x.sub_(1) x.div_(2) x.clamp_(0,1) x.relu_() x.copy_(y) x.fill_(1) x.zero_() x.neg_() x.exp_()
x.masked_fill_(b,0.) x.add_(y) x.mul_(y) x.sub_(y) x.div_(y) x.sigmoid_() x.tanh_() x.sqrt_() F.relu(x,inplace=True)
F.silu(x,inplace=True) F.hardtanh(x,inplace=True) F.leaky_relu(x,inplace=True) F.relu6(x,inplace=True)
F.hardswish(x,inplace=True) F.hardsigmoid(x,inplace=True) F.elu(x,inplace=True) F.dropout(x,0.5,False) x+1 x-1 1-x x*2
x/2 2/x x//2 x%2 x**2 x**0.5 2.**x x==0 x!=0 x<0 x<=0 x>0 x>=0 -x b&b b|b b^b ~b i&3 i|3 i^3 i<<1 i>>1 i+1 i*2 i//2 i%3
i.float() x.to(torch.float16) x.double() x.long() x.bool() x.type_as(i) x.half().float() x.bfloat16() x.clamp(0,1)
x.clamp(min=0) x.clamp(max=1) x.clamp_min(0) x.clamp_max(1) torch.clamp(x,y,y+1) x.lerp(y,0.5) torch.where(b,x,y)
torch.where(b,x,0.) torch.where(b,1.,x) x.masked_fill(b,0.) torch.addcmul(x,y,y) torch.addcdiv(x,y,y+3) torch.rsub(x,1)
torch.rsub(x,y) torch.special.expit(x) torch.erfinv(x/9) x.sum() x.sum(1) x.sum((1,2)) x.mean() x.mean(1,keepdim=True)
x.mean((1,2)) x.amax((1,2)) x.max() x.min() x.max(1)[0] x.min(1)[1] x.var(1) x.var((1,2),unbiased=False) x.std(1)
torch.var_mean(x,1)[0] torch.std_mean(x,1)[1] x.argmax() x.prod() x.any() x.all() b.any(1) b.all(1) x.norm()
x.norm(2,1) x.norm(1,1) torch.linalg.vector_norm(x,dim=1) torch.linalg.norm(x) torch.linalg.matrix_norm(x) x.cumsum(1)
x.topk(2,1)[0] x.sort(1)[1] x.kthvalue(2,1)[0] x.median() x.logsumexp(1) x.softmax(-1) x.log_softmax(-1)
F.softmin(x,-1) x.count_nonzero(1) torch.aminmax(x,dim=1)[0] torch.dist(x,y) x.mode(1)[0] x.view(4,36) x.view(4,-1)
x.reshape(24,6) x.flatten() x.flatten(1) x.unflatten(1,(2,3)) x.permute(2,0,1) x.transpose(0,1) x.swapaxes(0,1)
x.movedim(0,1) m.t() m.T m.mT x.squeeze() x.unsqueeze(0) x[None] x[:,0] x[:,1:3] x[...,-1] x[:,::2] x[:,i[0,:2]]
x[i[0,:2]%4] x[:,:,i[0,:2]] x.select(1,0) x.narrow(1,0,2) x.index_select(1,i[0]) x.gather(1,i3) x.take_along_dim(i3,1)
x.scatter(1,i3,y) x.scatter(1,i3,1.) x.scatter_add(1,i3,y) x.index_add(1,i[0],y) x.index_copy(1,j,y)
x.index_fill(1,j,0.) x.index_put((j%4,),y[0]) x.masked_scatter(b,y) x.diagonal(0,1,2) x.diag_embed() x.expand(2,4,6,6)
x.expand_as(y) x.broadcast_to(2,4,6,6) x.repeat(2,1,1) x.repeat_interleave(2,1) x.tile(2,1,1) x.roll(1,1) x.flip(1)
x.rot90(1,(1,2)) x.chunk(2,1)[0] x.split(2,1)[0] x.split([2,4],1)[1] x.tensor_split(2,1)[0] x.unbind(1)[0]
x.unfold(1,2,2) x.view_as(y) x.reshape_as(y) x.contiguous() x.clone() x.detach() x.as_strided((4,6),(6,1))
torch.cat([x,y],1) torch.stack([x,y],1) torch.hstack([x,y]) torch.vstack([x,y]) torch.cat([x,y]) torch.concat([x,y],2)
torch.zeros(2,3)+x[0,0,0] torch.ones(2,3)+x[0,0,0] torch.full((2,),1.5)+x[0,0,0] torch.arange(6)+x
torch.arange(1,7,1)+x torch.arange(0,6)+x torch.linspace(0,1,6)+x torch.eye(6)+x torch.zeros_like(x)+x
torch.ones_like(x)+x torch.full_like(x,2)+x x.new_zeros(2)+x[0,0,0] x.new_ones(2)+x[0,0,0] x.new_full((2,),3.)+x[0,0,0]
torch.tensor(2.)*x torch.tensor([1.,2.]).sum()+x torch.scalar_tensor(2.)*x torch.tril(x) torch.triu(x)
torch.meshgrid(x[0,0],y[0,0],indexing='ij')[0] torch.outer(x[0,0],y[0,0]) torch.bucketize(x,x[0,0].sort()[0])
torch.searchsorted(x[0,0].sort()[0],y[0,0]) torch.histc(x)+0 m@m x@m x@y torch.matmul(x,y)
torch.mm(m,m) torch.bmm(x,y) torch.mv(m,m[0]) torch.dot(m[0],m[1]) torch.addmm(m,m,m) torch.baddbmm(x,x,y)
torch.addmv(m[0],m,m[0]) torch.einsum('bij,bjk->bik',x,y) torch.einsum('bij,jk->bik',x,m) torch.inner(x,m)
torch.tensordot(x,m,1) torch.kron(m,m) torch.cross(x[...,:3],y[...,:3],-1) torch.linalg.multi_dot([m,m,m])
torch.chain_matmul(m,m) F.linear(x,m) F.linear(x,m,m[0]) F.bilinear(m,m,x[:,:6,:6]) F.embedding(i,m)
F.embedding_bag(i,m)[0] F.cosine_similarity(x,y,1) F.normalize(x,dim=1) F.pairwise_distance(m,m+1) torch.cdist(x,y)
F.layer_norm(x,(6,)) F.layer_norm(x,(6,),m[0],m[1]) F.rms_norm(x,(6,)) F.rms_norm(x,(6,),m[0]) F.group_norm(p,2)
F.instance_norm(p) F.local_response_norm(p,2) F.batch_norm(p,s,s+1) F.batch_norm(p,s,s+1,s,s) F.conv1d(p1,w1)
F.conv1d(p1,w1,s,padding='same') F.conv2d(p,w) F.conv2d(p,w,s,2,1) F.conv2d(p,w,padding='same')
F.conv2d(p,w[:,:1],groups=4) F.conv3d(p3,w3) F.conv3d(p3,w3,padding='same') F.conv_transpose2d(p,w)
F.conv_transpose3d(p3,w3) F.max_pool1d(p1,2) F.max_pool2d(p,2) F.max_pool2d(p,3,2,1) F.max_pool3d(p3,2)
F.avg_pool1d(p1,2) F.avg_pool2d(p,2) F.avg_pool3d(p3,2) F.adaptive_avg_pool1d(p1,2) F.adaptive_avg_pool2d(p,1)
F.adaptive_avg_pool2d(p,3) F.adaptive_avg_pool3d(p3,2) F.adaptive_max_pool1d(p1,2) F.adaptive_max_pool2d(p,2)
F.lp_pool2d(p,2,2) F.max_unpool2d(*F.max_pool2d(p,2,return_indices=True),2)
F.fold(x[:1,:4].reshape(1,4,6)[:,:,:4],(3,3),2) F.pad(p,(1,1)) F.pad(p,(1,1,1,1)) F.pad(p,(1,1,1,1),'reflect')
F.pad(p,(1,1,1,1),'replicate') F.pad(p,(1,1,1,1),'circular') F.unfold(p,3) F.pad(p1,(1,1),'reflect')
F.pad(p1,(1,1),'replicate') F.pad(x,(1,1),value=2.) F.interpolate(p,scale_factor=2) F.interpolate(p,(5,5))
F.interpolate(p,scale_factor=2,mode='bilinear') F.interpolate(p,(5,5),mode='bilinear',align_corners=True)
F.interpolate(p,scale_factor=2,mode='bicubic') F.interpolate(p1,scale_factor=2)
F.interpolate(p1,scale_factor=2,mode='linear') F.interpolate(p3,scale_factor=2)
F.interpolate(p3,scale_factor=2,mode='trilinear') F.interpolate(p,(4,4),mode='area')
F.interpolate(p,(4,4),mode='nearest-exact') F.pixel_shuffle(p,2) F.pixel_unshuffle(p,2) F.channel_shuffle(p,2)
F.grid_sample(p,p[:,:2].permute(0,2,3,1),align_corners=False) F.affine_grid(x[:,:2,:3],(4,1,5,5),align_corners=False)
F.prelu(p,s) F.prelu(p,s[:1]) F.gelu(x,approximate='tanh') F.threshold(x,0.,1.) F.rrelu(x)
F.scaled_dot_product_attention(x,y,x) F.scaled_dot_product_attention(q,q,q)
F.scaled_dot_product_attention(q,q,q,is_causal=True) F.scaled_dot_product_attention(q,q,q,attn_mask=b[0])
F.mse_loss(x,y) F.l1_loss(x,y) F.smooth_l1_loss(x,y) F.cross_entropy(m,i[0]) F.nll_loss(m.log_softmax(1),i[0])
F.binary_cross_entropy_with_logits(x,y) F.kl_div(x,y.softmax(-1)) F.huber_loss(x,y)
torch.bitwise_not(i) torch.bitwise_and(i,i) torch.logaddexp(x,y) torch.hypot(x,y) torch.xlogy(y.abs(),y.abs()+1)
torch.heaviside(x,y) torch.isclose(x,y) torch.nan_to_num(x) torch.complex(x,y).real
torch.view_as_real(torch.complex(x,y)) torch.polar(x.abs(),y).imag torch.fft.rfft(x).real
torch.fft.irfft(torch.fft.rfft(x)) torch.stft(x[0],6,return_complex=True).abs() torch.diff(x) torch.trapezoid(x)
torch.trace(m) torch.det(m) torch.renorm(m,2,0,1.) torch.gather(x,2,i3)
torch.cummax(x,1)[0] torch.cummin(x,1)[0] torch.isin(i,i[0]) torch.cartesian_prod(m[0],m[1]) torch.block_diag(m,m)
torch.add(x,y,alpha=2) torch.sub(x,y,alpha=2) torch.div(x,y,rounding_mode='floor') torch.div(x,2,rounding_mode='trunc')
torch.float_power(x.abs(),2.) x.ldexp(y) F.conv_transpose1d(p1.reshape(4,4,9),w1[:,:4]) x.to(x.device) x.to('cpu')
x.to(y) x.to(x.device,torch.float16) x.to(device=x.device,dtype=torch.float16) x.cpu() x.type(torch.float16) x.float()
x.int() x.to(torch.float16,copy=True) x.to(dtype=torch.float64,memory_format=torch.contiguous_format) torch.min(x,y)
torch.max(x,y) torch._weight_norm(m,m[:,:1]) x.fill_(torch.tensor(1.)) p.contiguous(memory_format=torch.channels_last)
x.clone(memory_format=torch.contiguous_format) x.index_put_((j%4,),y[0]) x.index_put((j%4,),y[0],accumulate=True)
x.scatter_(1,i3,y) x.scatter_add_(1,i3,y) x.index_add_(1,i[0],y) x.masked_fill_(b,torch.tensor(0.))
x.masked_fill(b,torch.tensor(0.)) x.slice_scatter(y[:,:2],1,0,2) x.select_scatter(y[:,0],1,0) x.pow_(2) x.clamp_min_(0)
x.clamp_max_(1) x.square_() x.abs_() x.rsqrt_() x.reciprocal_() x.lerp_(y,0.5) x.addcmul_(x,y) x.erf_() x.cos_()
x.sin_() torch.ge(x,0) torch.pow(2,x) torch.true_divide(x,2) x.remainder(2) x.fmod(2) torch.fmod(x,2)
torch.bitwise_or(i,i) torch.bitwise_xor(i,i) torch.bitwise_left_shift(i,1) torch.bitwise_right_shift(i,1)
b.logical_not() b.to(torch.float32) b.sum() b.long().cumsum(-1) i.max() i.min() i.sum() x.sum(dtype=torch.float64)
x.mean(dtype=torch.float64) x.cumsum(1,dtype=torch.float64) torch.softmax(x,-1,dtype=torch.float64)
x.log_softmax(-1,torch.float64) x.min(1)[0] x.amin(1) x.nansum() x.nanmean() torch.std(x) torch.var(x) x.prod(1)
x.cumprod(1) x.logcumsumexp(1) x.argmin(1) x.argsort(1,descending=True) x.sort(stable=True,dim=1)[0]
x.topk(2,1,largest=False)[1] torch.triu_indices(4,4)+0 torch.tril_indices(4,4)+0 torch.arange(0.,1.,0.25)+0
torch.arange(6.)+x torch.zeros(6,dtype=torch.float16)+x[0,0].half() torch.ones(()) torch.empty(4).fill_(1)
x.new_empty(4).fill_(1) x.new_tensor([1.,2.]) torch.zeros_like(x,dtype=torch.int64) torch.unsqueeze(x,0).squeeze(0)
x.unsqueeze(0).squeeze((0,)) x.flatten(0,1).unflatten(0,(4,6)) x.ravel() x.view(torch.int32) x.adjoint() x.mH x
torch.rot90(m) torch.fliplr(m) torch.flipud(m) torch.column_stack([m,m]) torch.dstack([m,m]) torch.atleast_3d(m)
torch.squeeze(x,0) torch.tensor_split(x,3)[0] torch.addr(m,m[0],m[1]) torch.vdot(m[0],m[1]) torch.ger(m[0],m[1])
torch.addbmm(m,x,y) torch.linalg.vecdot(x,y) torch.linalg.cross(x[...,:3],y[...,:3]) F.layer_norm(x,(6,),m[0],None)
F.layer_norm(x,(6,6)) F.embedding(i,m,padding_idx=0) F.dropout2d(p,0.5,False) F.alpha_dropout(x,0.5,False)
F.feature_alpha_dropout(x,0.5,False)
F.multi_head_attention_forward(x,x,x,6,2,torch.cat([m,m,m]),None,None,None,False,0.,m,None)[0] F.conv2d(p,w,s,1,1,2)
F.conv1d(p1,w1,None,2,1) F.conv_transpose2d(p,w,s,2,1,1) F.max_pool2d(p,3,2,1,ceil_mode=True)
F.avg_pool2d(p,3,2,1,ceil_mode=True,count_include_pad=False) F.max_pool1d(p1,2,return_indices=True)[1]
F.adaptive_avg_pool2d(p,(1,None)) F.upsample(p,scale_factor=2) F.hardtanh(x,-2,2) F.softplus(x,2) F.glu(x,1)
F.sigmoid(x) F.tanh(x) torch.selu(x) torch.celu(x) torch.prelu(p,s) torch.special.logit(x.sigmoid()) torch.sinc(x)
torch.deg2rad(x) torch.rad2deg(x) torch.trapz(x) torch.special.gammaln(x.abs()+1) torch.lgamma(x.abs()+1)
torch.digamma(x.abs()+1) torch.i0(x) torch.special.erfcx(x) torch.mvlgamma(x.abs()+3,1) torch.polygamma(1,x.abs()+1)
"""

MORE = """
i.__ilshift__(1) torch.view_as_real(torch.complex(x,y).conj()*torch.complex(x,y)) torch.linalg.eigh(m@m.T)[0]
torch.linalg.slogdet(m)[1] torch.linalg.svd(m)[1] torch.absolute(x) x.acos_() x.acosh_() F.adaptive_max_pool3d(p3,2)
x.addcdiv_(x,y+3) b.all() torch.all(x,1) x.all((1,2)) torch.view_as_complex(x.reshape(4,6,3,2)).angle()
torch.arccosh(x.abs()+2) torch.arcsinh(x) torch.arctan2(x,y) x.arctan_() torch.arctanh(x/9) torch.argsort(x,stable=True)
torch.as_strided_scatter(x,y[:,0],(4,6),(6,1)) x.asin_() x.asinh_() x.atan2_(y) x.atan_() x.atanh_() torch.atleast_1d(x)
torch.atleast_2d(x) x.baddbmm_(y,y) torch.bartlett_window(6)+x F.binary_cross_entropy(x.sigmoid(),y.sigmoid())
i.bitwise_and_(3) i.bitwise_and_(i) torch.bitwise_left_shift(i,i) i.bitwise_left_shift_(1) i.bitwise_not_()
i.bitwise_or_(3) torch.bitwise_right_shift(i,i) i.bitwise_right_shift_(1) i.bitwise_xor_(3) torch.blackman_window(6)+x
x.ceil_() x.clamp_(y,y+1) x.clamp_max_(y) x.clamp_min_(y) torch.clip(x,0,1) x.clip_(0,1) x.copysign_(y) x.cosh_()
F.cosine_embedding_loss(m,m+1,torch.ones(6)) x.cumprod_(1) x.cumsum_(1) torch.cumulative_trapezoid(x) x.deg2rad_()
torch.diag(m[0]) torch.diag(m) torch.diagflat(m[0]) torch.diagonal_scatter(x,y[:,0],0,1,2) x.digamma_()
i.div(2,rounding_mode='floor') x.div(y) x.div(y,rounding_mode='trunc') torch.divide(x,y) torch.dsplit(x,2)[0] x.eq_(y)
x.eq_(0) x.erfc_() x.erfinv_() x.exp2_() x.expm1_() torch.linalg.pinv(m+6*torch.eye(6))
torch.fft.ifft(torch.fft.fft(x)).real torch.fft.fft(x,norm='ortho').real torch.fft.fft(x).real
torch.fft.ifft2(torch.fft.fft2(x)).real torch.fft.fft2(x).abs() torch.fft.fftfreq(6)+x
torch.fft.ifftn(torch.fft.fftn(x)).imag torch.fft.fftn(x).real torch.fft.fftshift(x) torch.fft.hfft(torch.fft.ihfft(x))
torch.fft.ifftshift(x) torch.fft.ihfft(x).real torch.fft.irfft2(torch.fft.rfft2(x)) torch.fft.irfftn(torch.fft.rfftn(x))
torch.fft.rfft2(x).real torch.fft.rfftfreq(10)+x torch.fft.rfftn(x).real torch.fix(x) x.fix_()
x.double().float_power_(2) x.floor_() x.floor_divide_(y) x.floor_divide_(2) x.fmod_(y) x.fmod_(2) x.frac_()
torch.frexp(x)[0] i.gcd(i+1) i.gcd_(i+1) x.ge_(y) x.ge_(0) torch.gradient(x,dim=1)[0] torch.greater(x,y) x.gt_(y)
x.gt_(0) torch.hamming_window(6)+x torch.stft(x.reshape(1,-1),8,window=torch.hann_window(8),return_complex=True).abs()
torch.hann_window(6)+x F.hinge_embedding_loss(x,y.sign()) torch.hsplit(x,2)[0] x.hypot_(y) x.i0_()
torch.igamma(x.abs()+1,y.abs()) torch.igammac(x.abs()+1,y.abs()) x.index_copy_(1,j,y) x.index_fill_(1,j,0.)
x.index_reduce(1,j,y,'amin') x.index_reduce(1,j,y,'mean',include_self=False) x.index_reduce_(1,j,y,'amax')
torch.isneginf(x) torch.isposinf(x) torch.isreal(x)
torch.istft(torch.stft(p1.reshape(4,-1)[:1],6,return_complex=True),6)
torch.istft(torch.stft(x.reshape(1,-1),8,window=torch.ones(8),return_complex=True),8,window=torch.ones(8))
torch.kaiser_window(6)+x i.lcm(i+1) x.le_(y) x.le_(0) torch.lerp(x,y,y) x.lerp_(y,y) torch.less_equal(x,y) x.lgamma_()
torch.linalg.cond(m) torch.linalg.det(m) torch.linalg.diagonal(x) torch.linalg.eigvalsh(m@m.T)
torch.linalg.householder_product(m,m[0]) torch.linalg.inv_ex(m+6*torch.eye(6))[0] torch.matmul(x,m[0])
torch.matmul(m[0],m[1]) torch.linalg.matmul(x,y) torch.matrix_exp(m) torch.linalg.matrix_exp(x)
torch.linalg.matrix_power(m,3) torch.linalg.qr(m)[1].abs()
torch.linalg.solve_triangular(m.triu()+6*torch.eye(6),m,upper=True) torch.linalg.svdvals(m) torch.linalg.vander(m[0])
torch.vander(m[0]) x.log10_() x.log1p_() x.log2_() x.log_() torch.logaddexp2(x,y) torch.logdet(m@m.T+torch.eye(6))
x.logical_and_(y) x.logical_not_() x.logical_or_(y) x.logical_xor_(y) torch.logit(x.sigmoid(),1e-3) x.logit_()
torch.logspace(0,1,6)+x x.lt_(y) x.lt_(0) F.margin_ranking_loss(x,y,x.sign()) x.masked_scatter_(b,y)
torch.moveaxis(x,0,1) torch.msort(x) torch.multiply(x,y) x.multiply_(y) x.nan_to_num_() torch.nanmedian(x)
torch.nanmedian(x,1)[0] torch.narrow_copy(x,1,0,2) x.ne_(y) x.ne_(0) torch.negative(x) x.negative_()
torch.nextafter(x,y) x.nextafter_(y) torch.not_equal(x,y) F.pdist(m) torch.pdist(m) torch.permute_copy(x,(1,0,2))
x.pow_(y) x.pow_(y.abs()) torch.put(x,i,y[:,:,0]) x.rad2deg_() torch.remainder(i,3) i.remainder(2)
torch.remainder(2,i+1) x.remainder_(2) x.remainder_(y) x.renorm_(2,0,1.)
x.repeat_interleave(torch.tensor([1,2,1,2,1,1]),1,output_size=8) torch.repeat_interleave(x,2)
torch.repeat_interleave(x,3,0) torch.view_as_real(torch.complex(x,y).resolve_conj()) x.round(decimals=2)
torch.round(x,decimals=1) x.round_() x.round_(decimals=2) torch.row_stack([m,m]) x.scatter(1,i3,y,reduce='add')
x.scatter(1,i3,2.,reduce='multiply') x.scatter_reduce(1,i3,y,'mean',include_self=False) x.scatter_reduce(1,i3,y,'amax')
x.scatter_reduce(1,i3,y,'sum') x.scatter_reduce_(1,i3,y,'amax') torch.select_copy(x,1,0) x.sgn_() x.sign_() x.sinc_()
x.sinh_() F.soft_margin_loss(m,m.sign()) torch.special.bessel_j0(x) torch.special.bessel_j1(x)
torch.special.entr(x.abs()) torch.special.i0e(x) torch.special.i1(x) torch.special.i1e(x) torch.special.log_ndtr(x)
torch.special.ndtr(x) torch.special.ndtri(x.sigmoid()) torch.special.xlog1py(x,y.abs())
torch.special.zeta(x.abs()+2,y.abs()+1) x.squeeze_() x.squeeze_(0) torch.std_mean(x)[0] x.sub(2) torch.subtract(x,y)
x.subtract_(y) x.sum_to_size(6,6) x.swapaxes_(1,2) torch.swapdims(x,0,1) torch.take(x,i) x.tan_()
torch.tensor_split(x,(2,4),1)[0] x.transpose_(1,2) torch.triangular_solve(m,m.triu()+6*torch.eye(6))[0] x.tril_()
F.triplet_margin_loss(m,m+1,m-1) x.triu_() x.true_divide_(y) x.trunc_() torch.unsafe_chunk(x,2,1)[0]
torch.unsafe_split(x,2,1)[0] x.unsqueeze_(0)
torch.view_as_real(torch.view_as_complex(x.reshape(4,6,3,2))*torch.view_as_complex(y.reshape(4,6,3,2)))
torch.view_as_complex(x.reshape(4,6,3,2)).abs() torch.view_as_real(torch.view_as_complex(x.reshape(4,6,3,2)))
torch.vsplit(x,2)[0] x.where(b,torch.tensor(0.)) torch.where(b,1,0) x.where(b,y) x.xlogy_(y) F.mish(x,inplace=True)
F.celu(x,inplace=True) F.rrelu(x,inplace=True) F.alpha_dropout(x,0.5,False,True) F.dropout2d(p,0.5,False,True)
F.dropout3d(p3,0.5,False) F.interpolate(p,(3,3),mode='bilinear',antialias=True)
F.interpolate(p,(3,3),mode='nearest-exact') F.interpolate(p3,(2,2,2),mode='nearest-exact')
F.multilabel_soft_margin_loss(m,(m>0).float())
F.grid_sample(p,p[:,:2].permute(0,2,3,1),mode='bicubic',padding_mode='reflection',align_corners=False)
F.scaled_dot_product_attention(x.reshape(1,4,6,6),x[:2].reshape(1,2,6,6),x[:2].reshape(1,2,6,6),enable_gqa=True)
F.selu(x,inplace=True) F.threshold(x,0.,1.,inplace=True) F.dropout(x,0.5,False,True)
F.feature_alpha_dropout(x,0.5,False,True) F.dropout1d(p1,0.5,False) F.interpolate(p,(3,3),mode='bicubic',antialias=True)
F.interpolate(p1,5,mode='nearest-exact') F.grid_sample(p3,p3[:,:3].permute(0,2,3,4,1),align_corners=False)
torch.eye(3,4)+x[0,0,0]
"""
"""In-place spellings, complex numbers, spectra, linear algebra, losses, and what scatters with a reduction."""

WHOLE = """
torch.cholesky_solve(m,torch.linalg.cholesky(m@m.T+torch.eye(6))) torch.linalg.solve(m+6*torch.eye(6),m)
torch.linalg.cholesky(m@m.T+torch.eye(6)) torch.inverse(m+6*torch.eye(6)) torch.linalg.inv(m+6*torch.eye(6))
torch.linalg.lu_factor(m)[0] torch.linalg.tensorinv((m+6*torch.eye(6)).reshape(6,6),1) F.one_hot(i,6)
F.one_hot(i,8).float()
"""
"""What decomposes into operators with effects or texts of their own, and is taken as it is exported alone."""

DIRECT = """
torch.rnn_relu(x,x[:1,:4],[m,m,m[0],m[1]],True,1,0.,False,False,True)[0]
aten.fractional_max_pool3d(p3,(1,2,1),(2,2,2),m.reshape(1,-1,3)[:,:4].sigmoid())[0]
torch.rnn_tanh(x,x[:1,:4],[m,m,m[0],m[1]],True,1,0.,False,False,True)[0]
aten.reflection_pad2d(x,(1,1,1,1)) aten.reflection_pad3d(p3,(1,1,1,1,1,1)) aten.replication_pad3d(p3,(1,1,1,1,1,1))
aten._unsafe_index(x,[None,j]) aten._unsafe_index_put(x,[j%4],y[0]) aten.upsample_nearest3d.default(p3,(6,8,6))
aten._upsample_nearest_exact2d.default(p,(9,9)) aten._upsample_nearest_exact3d.default(p3,(6,8,6))
aten._convolution(p,w,None,(1,1),(0,0),(1,1),False,(0,0),1,False,False,False,False)
aten.conv_tbc(x,y[:3,:,:5],s[:1].expand(5)) aten._fused_rms_norm(x,[6],m[0],1e-5)[0]
aten._weight_norm_interface(m,m[:,:1])[0] aten.fill.Tensor(x,y[0,0,0]) aten.gelu_(x) aten.nll_loss(m,i[0])
aten.norm.Scalar(x,3) aten.norm.ScalarOpt_dtype(x,2,dtype=torch.float64) aten.zero(x)
aten.unsafe_split_with_sizes(x,[2,4],1)[0] aten.squeeze_copy.dims(x,[0])
torch.hann_window(6,periodic=False)+x torch.hamming_window(6,periodic=False)+x
torch.hamming_window(6,periodic=False,alpha=0.5)+x torch.hamming_window(6,periodic=False,alpha=0.5,beta=0.5)+x
torch.blackman_window(6,periodic=False)+x torch.bartlett_window(6,periodic=False)+x
torch.kaiser_window(6,periodic=False)+x torch.kaiser_window(6,periodic=False,beta=10.)+x
torch.nn.utils.rnn.pad_sequence([x[0],x[1,:3]]) torch.quantile(x,m[0].sigmoid(),1)
torch.nanquantile(x,m[0].sigmoid(),1) torch.linalg.matrix_rank(m,m[0,0].abs()/1e3) torch.linalg.cond(m,'fro')
torch.linalg.norm(m,'fro') torch.nuclear_norm(m) torch.nuclear_norm(x,(1,2)) torch.slogdet(m)[1]
torch.rnn_tanh_cell(m,m,m,m) torch.rnn_relu_cell(m,m,m,m) aten.stft.center(x[0],6,return_complex=True).abs()
torch.searchsorted(m[0].sort()[0],0.5) torch.bucketize(0.5,m[0].sort()[0]) torch.isin(3,i) torch.isin(i,3)
torch.xlogy(2,x.abs()) torch.xlogy(x,2) torch.special.xlogy(2,x.abs()) torch.special.xlog1py(2,x.abs())
torch.special.xlog1py(x,2) torch.special.zeta(3,x.abs()+1) torch.special.zeta(x.abs()+2,3) torch.special.xlogy(x,2)
torch.bitwise_and(3,i) torch.bitwise_or(3,i) torch.bitwise_xor(3,i) torch.bitwise_left_shift(1,i)
torch.bitwise_right_shift(8,i) aten.div.Scalar_mode(x,2,rounding_mode='floor') aten.meshgrid(tuple(x[0,:2]))[0]
aten._add_relu(x,y) torch.range(0,5)+x aten.native_channel_shuffle(p,2) aten.detach_copy(x) aten.slice_copy(x,1,0,2)
aten.view_copy.dtype(x,torch.int32) aten.view_as_real_copy(torch.complex(x,y))
aten.view_as_complex_copy(x.reshape(4,6,3,2)) aten._is_all_true(b) aten._is_any_true(b)
aten.split_copy.Tensor(x,2,1)[0] aten.split.sizes(x,[2,4],1)[0] i.__iand__(3) i.__iand__(i) i.__ior__(3) i.__ixor__(3)
i.__irshift__(1) i.__lshift__(i) i.__rshift__(i) i.__ilshift__(i) i.__irshift__(i) i.__ior__(i) i.__ixor__(i)
aten._aminmax(x)[0] aten._addmm_activation(m[0],m,m) aten._stack([x,y]) aten._conj_copy(torch.complex(x,y)).real
aten._euclidean_dist(m,m+1) aten._pad_circular(p,(1,1,1,1)) aten._dim_arange(x,0) aten._cast_Float(i)
aten._cast_Half(x) aten._cast_Long(x) aten._cast_Int(x) aten._cast_Double(x) aten._cast_Byte(i) aten._cast_Char(i)
aten._cast_Short(i) aten.floor_divide.Scalar(x,2) aten.float_power.Scalar(2,x)
aten.float_power_.Tensor(x.double(),y.double()) aten.divide.Scalar(x,2) aten.divide_.Scalar(x,2)
aten.divide.Scalar_mode(x,2,rounding_mode='floor') aten.multiply.Scalar(x,2) aten.multiply_.Scalar(x,2)
aten.subtract.Scalar(x,2) aten.subtract_.Scalar(x,2) aten.sub_.Scalar(x,2) aten.true_divide.Scalar(x,2)
aten.true_divide_.Scalar(x,2) aten.div_.Scalar_mode(x,2,rounding_mode='floor') aten.greater.Scalar(x,0)
aten.greater_.Scalar(x,0) aten.greater_equal.Scalar(x,0) aten.greater_equal_.Scalar(x,0) aten.less.Scalar(x,0)
aten.less_.Scalar(x,0) aten.less_equal.Scalar(x,0) aten.less_equal_.Scalar(x,0) aten.not_equal.Scalar(x,0)
aten.not_equal_.Scalar(x,0) aten.floor_divide_.Scalar(x,2) aten.gradient.array(x,dim=[1,2])[0]
aten.gradient.scalararray(x,spacing=2,dim=[1,2])[0] aten.histogramdd.int_bins(m[:,:2],3)[0]
aten.frobenius_norm.dim(x,[1]) aten.norm_except_dim(m,2,0) aten.xlogy_.Scalar_Other(x,2)
aten.scatter_.value_reduce(x,1,i3,2.,reduce='add') aten.special_chebyshev_polynomial_t.n_scalar(x,3)
aten.special_chebyshev_polynomial_u.n_scalar(x,3) aten.special_hermite_polynomial_h.n_scalar(x,3)
aten.special_hermite_polynomial_he.n_scalar(x,3) aten.special_laguerre_polynomial_l.n_scalar(x,3)
aten.special_legendre_polynomial_p.n_scalar(x,3) aten.special_chebyshev_polynomial_v.n_scalar(x,3)
aten.special_chebyshev_polynomial_w.n_scalar(x,3) aten._batch_norm_no_update(p,s,s,s,s+1,0.1,1e-5)[0]
aten._batch_norm_with_update_functional(p,s,s,s,s+1,0.1,1e-5)[0]
aten.embedding_bag.default(m,i.reshape(-1),i[0].sort()[0])[0] aten._upsample_lanczos2d_aa.vec(p,(3,3),False,None)
aten._unsafe_index.Tensor_hacked_twin(x,[j%4]) aten._logcumsumexp(x,1)
aten.fractional_max_pool2d(p,(2,2),(3,3),m.reshape(1,-1,2)[:,:4].sigmoid())[0]
F.fractional_max_pool2d(p,2,output_size=3,_random_samples=m.reshape(1,-1,2)[:,:4].sigmoid())
aten._int_mm(m.to(torch.int8),m.to(torch.int8))
torch._grouped_mm(x.reshape(-1)[:64].reshape(8,8).bfloat16(),y.reshape(-1)[:128].reshape(2,8,8).bfloat16(),offs=torch.tensor([4,8],dtype=torch.int32))
"""
"""Forms of operators that Python spells otherwise: exports of decomposed programs, and of older releases, have them."""

DYNAMIC = """
x.numel()+x F.embedding_bag(x[:,0].long().abs()%3,x[0]) F.embedding_bag(x[:,0].long().abs()%3,x[0],mode='sum')
torch.zeros_like(x).scatter_reduce(0,x.long().abs()%3,x,'amax',include_self=False)
x.reshape(n*6,6) x.reshape(n,-1) x.view(n,36) torch.zeros(n//2)+x[0,0,0] x.median(1)[0] x[:n-1] x[1:] x.repeat(n,1,1)
x.flatten(0,1) torch.arange(n)+x[0,0,0] torch.arange(n+1)+x[0,0,0] torch.zeros(n,n)+x[0,0,0]
torch.full((n,n),-1.)+x[0,0,0] torch.ones(n%3+2)+x[0,0,0] torch.arange(n)[:,None]<torch.arange(n)[None]
torch.cat([x,x]) x/n x*n x.sum()/n x.sum()/(n*6) x.new_zeros(n)+x[:,0,0] torch.eye(n)+x[0,0,0] x.narrow(0,0,n-1)
x.mean(0,keepdim=True).expand(n,-1,-1) x.unfold(0,2,1) F.pad(x,(0,0,0,0,0,n)) x.cumsum(0) x.flip(0) x.roll(1,0)
torch.triu(torch.full((n,n),-1.))+x[0,0,0] torch.empty_like(x).fill_(n) torch.full((n,),n) x.new_full((n,),1.)+x[:,0,0]
x.to(torch.int64)+n x.expand(2,n,6,6) torch.zeros(torch.sym_max(n,3))+x[0,0,0] torch.zeros(torch.sym_min(n,3))+x[0,0,0]
"""
"""Over x with a dynamic batch n, which the graph then computes with."""


GROUP = 64
"""Expressions that share a program: tracing one costs far more than a node more."""


def groups() -> list[tuple[str, ...]]:
    """Every expression, by program; static and dynamic ones apart."""
    static = [f"torch.{name}(x)" for name in POINTWISE.split()] + [f"torch.{name}(x,y)" for name in BINARY.split()]
    static += [f"torch.{name}(x,1)" for name in REDUCTIONS.split()]
    static += [f"F.{name}(x)" for name in ACTIVATIONS.split()] + EXPRESSIONS.split() + MORE.split()
    whole = [static, WHOLE.split(), DIRECT.split(), DYNAMIC.split()]
    return [tuple(some[start : start + GROUP]) for some in whole for start in range(0, len(some), GROUP)]


class Expressions(nn.Module):
    """Expressions over x, y and i, and what is derived of them; each on copies, which it may change."""

    def __init__(self, texts: tuple[str, ...]) -> None:
        super().__init__()
        self.codes = [compile(text, text, "eval") for text in texts]

    def forward(self, x: Tensor, y: Tensor, i: Tensor) -> list[Tensor]:
        results = []
        for code in self.codes:
            used = [derive for name, derive in DERIVE.items() if name in code.co_names]
            read = {*code.co_names, *(name for derive in used for name in derive.co_names)}
            values = {name: value.clone() for name, value in {"x": x, "y": y, "i": i}.items() if name in read}
            derived = {derive.co_filename: eval(derive, {}, values) for derive in used}
            result = eval(code, {"torch": torch, "aten": torch.ops.aten, "F": F, **values, **derived})
            results.append(result + 0 if isinstance(result, Tensor) and result.dtype != torch.bool else result)
        return results


DERIVED = {
    "b": "x > y",
    "m": "x[0]",
    "q": "x.unsqueeze(1)",
    "i3": "i[:, :, None].expand(4, 6, 6)",
    "j": "i[0].sort()[1]",
    "s": "y[0, :4, 0].abs()",
    "p1": "x",
    "p": "x.reshape(1, 4, 6, 6)",
    "p3": "x.reshape(1, 4, 3, 4, 3)",
    "w1": "y[:, :, :3]",
    "w": "y[0, :4, :4, None, None].expand(4, 4, 3, 3)",
    "w3": "y[0, :4, :4, None, None, None].expand(4, 4, 2, 2, 2)",
}
DERIVE = {name: compile(text, name, "eval") for name, text in DERIVED.items()}
"""What an expression may name besides x, y and i. Each is made where it is named: to trace them all takes longest."""


class Sized(nn.Module):
    """Expressions over x and the size n of its batch."""

    def __init__(self, texts: tuple[str, ...]) -> None:
        super().__init__()
        self.codes = [compile(text, text, "eval") for text in texts]

    def forward(self, x: Tensor) -> list[Tensor]:
        return [eval(code, {"x": x.clone(), "n": x.shape[0], "torch": torch, "F": F}) for code in self.codes]


def inputs() -> tuple[Tensor, Tensor, Tensor]:
    """x, y float32 [4, 6, 6]; i int64 [4, 6] within 0 … 5."""
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(4, 6, 6, generator=generator) for _ in range(2))
    return x, y, torch.randint(0, 6, (4, 6), generator=generator)


def exported(texts: tuple[str, ...]) -> ExportedProgram:
    """Some expressions exported. Raises what torch's export raises."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of deprecated spellings that old models still have
        if texts[0] in DYNAMIC.split():
            dynamic = {"x": {0: torch.export.Dim("n", min=4, max=64)}}
            return torch.export.export(Sized(texts), inputs()[:1], dynamic_shapes=dynamic)
        return torch.export.export(Expressions(texts), inputs())


def programs(texts: tuple[str, ...]) -> tuple[ExportedProgram, ...]:
    """Some expressions exported, and decomposed too unless they are of WHOLE."""
    program = exported(texts)
    if texts[0] in WHOLE.split() + DIRECT.split():
        return (program,)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return program, program.run_decompositions()
